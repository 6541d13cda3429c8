//! A machine without images and containers, for tests: what is started listens at the test's own
//! loopback interface.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use thaw_image::{Digest, Progress};
use thaw_node::{How, Way};

use crate::acceleration::Acceleration;
use crate::catalog::Catalog;
use crate::contract::{EVENT, Place};
use crate::fleet::{Fleet, Limits};
use crate::logs::Logs;
use crate::machine::{Indexed, Machine, Missed, Order, Reach, Started, WorkingSet};
use crate::model::{Config, Container, FunctionName, LATEST, Target};
use crate::stats::Stats;

/// For how long a start waits in a test that has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// The machine. Starts wait until they are let on.
#[derive(Debug)]
pub(crate) struct Fake {
    listener: TcpListener,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The names of the functions whose starts were asked for.
    asked: Vec<String>,
    /// What they were started for, where they are no servers.
    events: Vec<Option<String>>,
    /// Starts that may go on.
    let_on: usize,
    /// Starts from this one on fail.
    fails_from: Option<usize>,
}

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut state);
        self.changed.notify_all();
        result
    }

    /// Starts that were asked for, in their order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.change(|state| state.asked.clone())
    }

    /// The events that they were started for, where they are no servers.
    pub(crate) fn events(&self) -> Vec<Option<String>> {
        self.change(|state| state.events.clone())
    }

    /// Lets so many more starts go on.
    pub(crate) fn let_on(&self, starts: usize) {
        self.change(|state| state.let_on += starts);
    }

    /// Has all starts fail behind the first ones.
    pub(crate) fn fail_from(&self, start: usize) {
        self.change(|state| state.fails_from = Some(start));
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// What is run for a function.
    pub(crate) fn target(&self, name: &str) -> Arc<Target> {
        Arc::new(Target {
            name: FunctionName::parse(name),
            id: name.to_owned(),
            config: config(name, self.port()),
            version: LATEST.to_owned(),
            number: 1,
            internet: false,
        })
    }
}

/// A process that lives as long as somebody holds it.
fn monitor() -> Child {
    let mut cat = Command::new("cat");
    let held = cat.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    held.unwrap()
}

/// Of a function with an image of that name.
pub(crate) fn config(image: &str, port: u16) -> Config {
    Config {
        port,
        container: Container {
            image: image.to_owned(),
            digest: Some(Digest::of(image.as_bytes())),
            ..Container::default()
        },
        ..Config::default()
    }
}

impl Machine for Fake {
    fn resolve(&self, image: &str) -> Result<Digest, String> {
        Ok(Digest::of(image.as_bytes()))
    }

    fn start(&self, order: &Order) -> Result<Started, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let number = state.asked.len();
        state.asked.push(order.image.clone());
        let told = order.options.process.env.iter();
        let mut told = told.filter_map(|it| it.strip_prefix(EVENT)?.strip_prefix('='));
        state.events.push(told.next().map(str::to_owned));
        let waits = |state: &mut State| state.let_on == 0;
        let waited = self.changed.wait_timeout_while(state, PATIENCE, waits);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let Some(left) = state.let_on.checked_sub(1) else {
            return Err("nobody has let it on".to_owned());
        };
        state.let_on = left;
        if state.fails_from.is_some_and(|first| number >= first) {
            return Err("it fails as told".to_owned());
        }
        Ok(Started {
            id: format!("instance-{number}"),
            reach: Some(Reach(File::open("/proc/self/ns/net").unwrap().into())),
            cgroup: None,
            monitor: Some(monitor()),
            dir: PathBuf::from("/nonexistent"),
            way: Way {
                how: How::Full,
                why: "as told".to_owned(),
            },
            spans: Vec::new(),
        })
    }

    fn stop(&self, _id: &str, _patience: Duration) -> Result<(), String> {
        Ok(())
    }

    fn remove(&self, _id: &str) -> Result<(), String> {
        Ok(())
    }

    fn containers(&self, _prefix: &str) -> Vec<(String, PathBuf)> {
        Vec::new()
    }

    fn accelerate(&self, _: &str, _: Digest, _: &dyn Progress) -> Result<Indexed, String> {
        Err("it accelerates nothing".to_owned())
    }

    fn record(
        &self,
        _order: &Order,
        _until: &mut dyn FnMut(Started) -> Result<(), String>,
    ) -> Result<WorkingSet, String> {
        Err("it records nothing".to_owned())
    }

    fn missed(&self, _id: &str) -> Missed {
        Missed::default()
    }

    fn improve(&self, _order: &Order) -> Result<WorkingSet, String> {
        Err("it improves nothing".to_owned())
    }
}

/// A catalog in a directory.
pub(crate) fn catalog(dir: &TempDir) -> Arc<Catalog> {
    Arc::new(Catalog::open(&dir.path().join("state.redb")).unwrap())
}

/// The instances of a host with that machine.
pub(crate) fn fleet(machine: &Arc<Fake>, limits: Limits, dir: &TempDir) -> Arc<Fleet> {
    let place = Place {
        region: "here".to_owned(),
        account: "1".to_owned(),
    };
    let stats = Stats::new(Logs::open(dir.path().join("logs")).unwrap());
    let acceleration = Arc::new(Acceleration::new(catalog(dir)));
    let machine: Arc<dyn Machine> = Arc::<Fake>::clone(machine);
    Fleet::new(machine, limits, Arc::new(place), stats, acceleration).unwrap()
}
