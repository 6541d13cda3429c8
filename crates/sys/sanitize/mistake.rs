// Wrong on purpose: it reads one byte behind an allocation. `cargo xtask sanitize` has each of its
// tools find that before it believes what the tool does not find.
fn main() {
    let bytes = vec![1_u8; std::env::args().count()];
    let byte = unsafe { std::ptr::read_volatile(bytes.as_ptr().add(bytes.len())) };
    println!("{byte}");
}
