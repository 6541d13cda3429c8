//! Names that nothing else has.

use std::sync::OnceLock;

use ring::rand::{SecureRandom, SystemRandom};

use crate::error::Refusal;

fn random() -> &'static SystemRandom {
    static RANDOM: OnceLock<SystemRandom> = OnceLock::new();
    RANDOM.get_or_init(SystemRandom::new)
}

/// A UUID of version 4 (RFC 9562, section 5.4).
pub(crate) fn id() -> String {
    let mut bytes = [0; 16];
    if random().fill(&mut bytes).is_err() {
        // Never seen where getrandom(2) is; and better than no request at all.
        let now = jiff::Timestamp::now().as_nanosecond();
        bytes = now.to_be_bytes();
    }
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// 32 bytes that nobody can guess, in hexadecimal.
///
/// # Errors
/// There is no randomness.
pub(crate) fn secret() -> Result<String, Refusal> {
    let mut bytes = [0; 32];
    let filled = random().fill(&mut bytes);
    filled.map_err(|_| Refusal::internal("there are no random numbers"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A number from 0 to below 1.
pub(crate) fn fraction() -> f64 {
    let mut bytes = [0; 4];
    random().fill(&mut bytes).ok();
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX).next_up()
}
