//! Any manifest and configuration are an image or refused: its layers can be added up, and what it runs is
//! what a kernel takes, in a directory and with volumes that do not lead out of it.

use std::collections::BTreeSet;

use thaw_image::{Digest, ImageReference};
use thaw_node::Image;
use thaw_node::container::fuzz::Plan;

/// Most bytes of arguments or environment.
const MAX_BYTES: usize = 1 << 20;

fn check(plan: &Plan) {
    assert!(!plan.args.is_empty(), "nothing to run");
    for texts in [&plan.args, &plan.env] {
        assert!(texts.iter().all(|text| !text.contains('\0')));
        assert!(texts.iter().map(|text| text.len() + 1).sum::<usize>() <= MAX_BYTES);
    }
    let names = plan.env.iter().map(|entry| entry.split('=').next());
    let distinct: BTreeSet<_> = names.clone().collect();
    assert_eq!(distinct.len(), names.count(), "a name twice");
    for name in ["PATH", "HOME", "HOSTNAME"] {
        assert!(distinct.contains(&Some(name)), "no {name}");
    }
    for path in plan.volumes.iter().chain([&plan.cwd]) {
        assert!(path.starts_with('/') && !path.contains('\0'));
        let mut parts = path.split('/').skip(1);
        let is_plain = parts.all(|part| !matches!(part, "" | "." | ".."));
        assert!(is_plain || *path == "/", "{path} leads elsewhere");
    }
    assert!(!plan.volumes.iter().any(|path| path == "/"));
    if let Some(signal) = plan.stop_signal {
        assert!((1..=64).contains(&signal.number()));
    }
}

pub(crate) fn run(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (manifest, config) = (part(), part());
    let name: ImageReference = "example.com/image:1".parse().expect("a name");
    let Ok(image) = Image::parse(&name, Digest::of(manifest), "", manifest, config) else {
        return;
    };
    let sizes = image.layers.iter().map(|layer| u128::from(layer.size));
    assert_eq!(u128::from(image.compressed_size()), sizes.sum());
    assert!((1..=1024).contains(&image.layers.len()));
    let again = serde_json::to_vec(&image.config).expect("what was read can be written");
    let again = Image::parse(&name, image.digest, "", manifest, &again).expect("the same image");
    assert_eq!(again.layers, image.layers);
    if let Ok(plan) = Plan::of(&image.config) {
        check(&plan);
    }
}
