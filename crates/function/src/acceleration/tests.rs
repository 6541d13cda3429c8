#![allow(clippy::unwrap_used)]

use jiff::SignedDuration;

use super::stage::{OFTEN, pause_after};
use super::work::Job;
use super::*;
use crate::testing::{catalog, config};

/// A function that wants its image accelerated.
fn function(name: &str, image: &str) -> Function {
    let now = Timestamp::now();
    Function {
        name: FunctionName::parse(name),
        id: name.to_owned(),
        config: config(image, 9000),
        number: 1,
        created: now,
        modified: now,
        last_version: 0,
        previous: None,
        disabled: None,
    }
}

struct Scene {
    acceleration: Acceleration,
    _dir: tempfile::TempDir,
}

impl Scene {
    /// Functions by name and image, as they were made one after the other.
    fn new<const N: usize>(functions: [(&str, &str); N]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let acceleration = Acceleration::new(catalog(&dir));
        for (name, image) in functions {
            let function = function(name, image);
            acceleration.catalog.put(&function).unwrap();
            acceleration.want(&function).unwrap();
        }
        Self {
            acceleration,
            _dir: dir,
        }
    }

    /// What is due, in words.
    fn next(&self) -> String {
        match self.acceleration.next().unwrap() {
            None => "nothing".to_owned(),
            Some(Job::Index(index)) => format!("index {}", index.image),
            Some(Job::Record(recording, _)) => format!("record {}", recording.function),
            Some(Job::Improve(recording, _)) => format!("improve {}", recording.function),
        }
    }

    /// What is due is done; what it was.
    fn done(&self) -> String {
        let what = self.next();
        let catalog = &self.acceleration.catalog;
        match self.acceleration.next().unwrap() {
            None => {}
            Some(Job::Index(mut index)) => {
                index.stage = Stage::Done;
                catalog.put(&index).unwrap();
            }
            Some(Job::Record(mut recording, _) | Job::Improve(mut recording, _)) => {
                recording.stage = Stage::Done;
                recording.answered = true;
                recording.missed = 0;
                catalog.put(&recording).unwrap();
            }
        }
        what
    }

    fn invoked(&self, name: &str) {
        self.acceleration.invoked(&FunctionName::parse(name));
    }

    /// So many starts of a function had to wait for much.
    fn missed(&self, name: &str, starts: u32) {
        let missed = Missed {
            waits: 1,
            bytes: MUCH + 1,
        };
        for _ in 0..starts {
            let name = FunctionName::parse(name);
            self.acceleration.note_missed(&name, missed).unwrap();
        }
    }
}

#[test]
fn one_job_indexes_an_image_and_who_has_waited_longest_comes_first() {
    let scene = Scene::new([("a", "one"), ("b", "two"), ("c", "one")]);
    let done: Vec<String> = (0..6).map(|_| scene.done()).collect();
    let wanted = [
        "index one",
        "record a",
        "index two",
        "record b",
        "record c",
        "nothing",
    ];
    assert_eq!(done, wanted);
}

#[test]
fn functions_that_are_invoked_come_first() {
    let scene = Scene::new([("a", "one"), ("b", "two"), ("c", "three")]);
    scene.invoked("b");
    scene.invoked("c");
    assert_eq!(scene.done(), "index three");
    assert_eq!(scene.done(), "record c");
    assert_eq!(scene.done(), "index two");
    scene.invoked("a");
    assert_eq!(scene.next(), "index one");
}

#[test]
fn what_is_not_ready_goes_before_what_is_to_be_better() {
    let scene = Scene::new([("a", "one"), ("b", "two")]);
    scene.invoked("a");
    assert_eq!([scene.done(), scene.done()], ["index one", "record a"]);
    scene.missed("a", OFTEN);
    scene.invoked("a");
    let done: Vec<String> = (0..4).map(|_| scene.done()).collect();
    assert_eq!(done, ["index two", "record b", "improve a", "nothing"]);
}

#[test]
fn a_working_set_is_poor_when_starts_have_missed_much_often() {
    let scene = Scene::new([("a", "one")]);
    assert_eq!([scene.done(), scene.done()], ["index one", "record a"]);
    scene.missed("a", OFTEN - 1);
    assert_eq!(scene.next(), "nothing");
    let little = Missed {
        waits: 9,
        bytes: MUCH,
    };
    let name = FunctionName::parse("a");
    scene.acceleration.note_missed(&name, little).unwrap();
    assert_eq!(scene.next(), "nothing", "that was not much");
    scene.missed("a", 1);
    assert_eq!(scene.next(), "improve a");
}

#[test]
fn what_fails_waits_for_longer_each_time_and_holds_nobody_up() {
    let pauses = [1, 2, 3, 10, 11, u32::MAX].map(|times| pause_after(times).as_secs());
    assert_eq!(pauses, [30, 60, 120, 15_360, 21_600, 21_600]);
    let scene = Scene::new([("a", "one"), ("b", "two")]);
    scene.invoked("a");
    let Some(Job::Index(mut index)) = scene.acceleration.next().unwrap() else {
        panic!("{}", scene.next());
    };
    index.stage = index.stage.failed("as told".to_owned());
    let Stage::Failed { again, times, .. } = index.stage else {
        panic!("{:?}", index.stage);
    };
    assert_eq!(times, 1);
    assert!(!index.stage.is_due(again - SignedDuration::from_secs(1)));
    assert!(index.stage.is_due(again));
    scene.acceleration.catalog.put(&index).unwrap();
    assert_eq!(scene.next(), "index two");
    let function = function("a", "one");
    scene.acceleration.retry(&function).unwrap();
    assert_eq!(scene.next(), "index one", "by hand it is tried at once");
}
