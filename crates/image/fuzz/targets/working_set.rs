//! Any bytes are a working set or refused; of one that is read all runs lie in their layers, and it is
//! the same when it is written and read again.

use thaw_image::{Digest, MAX_FRAME_BYTES, WorkingSet};

pub(crate) fn run(data: &[u8]) {
    let _ = WorkingSet::decode(data);
    // What ends in its right checksum is looked at further.
    let sealed = [data, Digest::of(data).as_bytes()].concat();
    let Ok(set) = WorkingSet::decode(&sealed) else {
        return;
    };
    assert_eq!(WorkingSet::decode(&set.encode()).as_ref(), Ok(&set));
    let (mut end, mut unpacked) = (0, 0);
    for frame in &set.frames {
        assert_eq!(frame.data.offset, end);
        end = frame.data.end();
        assert!(set.frame_size(frame) <= MAX_FRAME_BYTES);
        for run in &frame.runs {
            let (_, size) = set.layers[usize::from(run.layer)];
            let extent = set.extent(run);
            assert!(!extent.is_empty() && extent.end() <= size);
            unpacked += extent.len;
        }
    }
    assert_eq!((set.data_size(), set.unpacked_size()), (end, unpacked));
}
