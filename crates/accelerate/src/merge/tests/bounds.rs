//! What bounds the memory and the time of a merge.

use super::*;

/// A merge of which no more than `steps` are left.
fn nearly_done(budget: &Budget, steps: u64) -> Merger<'_> {
    let mut merger = Merger::new(budget);
    merger.steps = MAX_STEPS - steps;
    merger
}

#[test]
fn every_name_on_the_way_is_a_step() {
    let budget = Budget::new(u64::MAX);
    let layer = Layer {
        diff_id: DiffId(Digest::of(b"layer")),
        tar_size: 1 << 20,
    };
    // Two; none, for what a link says is not followed yet; one, and the three names of the link, and one;
    // one for the whiteout, and one before the hard link and one before its target.
    let entries = [
        dir("a/b/c"),
        symlink("l", "a/./b"),
        file("l/x/y", 1),
        file("a/.wh.z", 0),
        hard("a/h", "l/x/y"),
    ];
    let steps = 2 + (1 + 3 + 1) + 1 + 1 + (1 + 3 + 1);
    let apply = |steps| nearly_done(&budget, steps).apply(&layer, &entries);
    apply(steps).unwrap();
    let refused = apply(steps - 1).unwrap_err();
    assert!(
        matches!(&refused, MergeError::Entry { path, reason: EntryError::Steps, .. } if path == b"a/h"),
        "{refused}"
    );
    // Whiteouts come first.
    let refused = apply(0).unwrap_err();
    assert!(
        matches!(&refused, MergeError::Entry { path, reason: EntryError::Steps, .. } if path == b"a/.wh.z"),
        "{refused}"
    );
    // All layers have them together.
    let mut merger = nearly_done(&budget, 3);
    merger.apply(&layer, &[dir("a/b/c")]).unwrap();
    assert!(merger.apply(&layer, &[dir("a/b/c")]).is_err());
}

#[test]
fn directories_that_wait_are_counted() {
    let name = "x".repeat(200);
    let entries: Vec<Entry> = (0..100).map(|it| dir(&format!("{name}{it}"))).collect();
    let layer = Layer {
        diff_id: DiffId(Digest::of(b"layer")),
        tar_size: 1 << 20,
    };
    let merged = |limit| -> Result<_, MergeError> {
        let budget = Budget::new(limit);
        let mut merger = Merger::new(&budget);
        merger.apply(&layer, &entries)?;
        Ok(merger.finish().map(drop))
    };
    let of_entries = |limit: &u64| merged(*limit).is_ok();
    let enough = (0..).map(|it| it << 10).find(of_entries).unwrap();
    let refused = merged(enough).unwrap().unwrap_err();
    let MergeError::Entry {
        number: 1,
        path,
        reason: EntryError::Memory(_),
        ..
    } = &refused
    else {
        panic!("{refused}");
    };
    assert!(path.starts_with(b"/xxx"), "{refused}");
    // So much more is enough for all.
    merged(enough + 100 * 300).unwrap().unwrap();
}

#[test]
fn a_warning_has_no_more_of_a_path_than_a_tar_may() {
    let long = vec![["y".repeat(255).as_str(); 15].join("/"); 2];
    let entries = vec![
        symlink("l", &long[0]),
        symlink("m", &format!("l/{}", long[1])),
        node("m/w", 0, 0),
    ];
    let merged = merge(&[entries]).unwrap();
    assert_eq!(merged.warnings.kept()[0].path.len(), path::MAX_PATH);
}
