//! Whose container is started next. A few are started at once, for each takes a processor; functions
//! take turns, so that one with a long line does not hold up the first instance of another.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::model::FunctionName;

/// The starts of a host.
#[derive(Debug)]
pub(crate) struct Starts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Starts that may begin now.
    free: usize,
    /// Starts that have begun, of functions that have any.
    begun: HashMap<FunctionName, usize>,
    /// Those that wait, in the order of their coming.
    line: VecDeque<(FunctionName, oneshot::Sender<Turn>)>,
}

/// That a start may go on. The next one may when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    starts: Arc<Starts>,
    function: FunctionName,
}

impl Starts {
    /// At most so many at once.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            free: most,
            ..State::default()
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of a function.
    pub(crate) async fn turn(self: &Arc<Self>, function: &FunctionName) -> Option<Turn> {
        let (sender, turn) = oneshot::channel();
        self.lock().line.push_back((function.clone(), sender));
        self.go_on();
        turn.await.ok()
    }

    /// Lets those begin that may.
    fn go_on(self: &Arc<Self>) {
        loop {
            let Some((function, waiter)) = self.lock().next() else {
                return;
            };
            let starts = Arc::clone(self);
            // Where whoever waited is gone, the turn comes back by being dropped.
            waiter.send(Turn { starts, function }).ok();
        }
    }
}

impl State {
    /// Who comes next: of the function with the fewest starts, whoever has waited longest.
    fn next(&mut self) -> Option<(FunctionName, oneshot::Sender<Turn>)> {
        self.line.retain(|(_, waiter)| !waiter.is_closed());
        self.free.checked_sub(1)?;
        let begun = |name| self.begun.get(name).copied().unwrap_or(0);
        let line = self.line.iter().enumerate();
        let (at, _) = line.min_by_key(|(_, (name, _))| begun(name))?;
        let (function, waiter) = self.line.remove(at)?;
        self.free -= 1;
        *self.begun.entry(function.clone()).or_default() += 1;
        Some((function, waiter))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.starts.lock();
        state.free += 1;
        if let Some(begun) = state.begun.get_mut(&self.function) {
            *begun -= 1;
            if *begun == 0 {
                state.begun.remove(&self.function);
            }
        }
        drop(state);
        self.starts.go_on();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Whose turn it is of those that wait.
    fn served(waiting: &mut Vec<(&str, oneshot::Receiver<Turn>)>) -> Option<Turn> {
        let at = waiting.iter_mut().position(|(_, turn)| !turn.is_empty())?;
        waiting.remove(at).1.try_recv().ok()
    }

    fn wait(starts: &Arc<Starts>, name: &'static str) -> (&'static str, oneshot::Receiver<Turn>) {
        let (sender, turn) = oneshot::channel();
        let function = FunctionName::parse(name);
        starts.lock().line.push_back((function, sender));
        starts.go_on();
        (name, turn)
    }

    #[test]
    fn functions_take_turns_and_each_in_the_order_of_its_requests() {
        let starts = Starts::new(2);
        let names = ["a", "a", "a", "a", "b", "c", "b"];
        let mut waiting: Vec<_> = names.map(|name| wait(&starts, name)).into();
        let mut order = Vec::new();
        let mut running = VecDeque::new();
        loop {
            while let Some(turn) = served(&mut waiting) {
                order.push(turn.function.flat());
                running.push_back(turn);
            }
            if running.pop_front().is_none() {
                break;
            }
        }
        assert_eq!(order, ["a", "a", "b", "a", "c", "a", "b"]);
        assert!(starts.lock().begun.is_empty());
    }

    #[test]
    fn whoever_does_not_wait_any_more_takes_no_turn() {
        let starts = Starts::new(1);
        let (_, mut first) = wait(&starts, "a");
        let held = first.try_recv().unwrap();
        let (_, gone) = wait(&starts, "a");
        let (_, mut next) = wait(&starts, "a");
        drop(gone);
        drop(held);
        // One that goes before it has taken its turn gives that back.
        let (_, mut last) = wait(&starts, "a");
        assert!(!next.is_empty() && last.is_empty());
        next.close();
        drop(next);
        assert!(last.try_recv().is_ok());
    }
}
