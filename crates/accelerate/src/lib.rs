//! Merge layers into a layout, pack working sets, publish accelerations.
