//! What somebody is at work on: images that are being looked up, pulled, started or accelerated. No record and no mount says yet
//! that they need what they have in the store, so that whoever gives space back asks here.
//!
//! Work begins before the store is asked what it has, and names what it is on when that is known. From then on nobody takes it
//! away; what was taken away before is not there when the store is asked. Whoever asks what nobody needs, and takes it away later, has
//! nobody's work end in between ([`Works::planning`]): the records that he has read do not speak for what it has brought.
//!
//! Whoever takes away what only he has brought leaves what anybody else was on meanwhile ([`Work::alone`]).
//!
//! Whoever takes a layer away says so first, and who begins work on that layer, or means to take it, too, waits until it is gone; a
//! start waits for no other layer.
//! The lock is innermost, but for those of the store, and held over the removal of a blob alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use thaw_image::Digest;

use crate::image::Image;
use crate::node::lock;

/// Everything that is being worked on.
#[derive(Debug, Default)]
pub(crate) struct Works {
    state: Mutex<State>,
    taken: Condvar,
}

#[derive(Debug, Default)]
struct State {
    works: usize,
    /// Manifests and layers that somebody is at work on.
    on: BTreeMap<Digest, Count>,
    /// What is being taken away.
    going: BTreeSet<Digest>,
    /// Plans of what goes, and work that ended under them, which counts still.
    plans: usize,
    over: Vec<BTreeSet<Digest>>,
}

/// How many are at work on something, and how many have been since the first of them.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    now: usize,
    ever: usize,
}

impl State {
    fn end(&mut self, on: &BTreeSet<Digest>) {
        self.works -= 1;
        for it in on {
            if let Some(count) = self.on.get_mut(it) {
                count.now -= 1;
            }
        }
        self.on.retain(|_, count| count.now > 0);
    }
}

/// Somebody at work, until it is dropped.
#[derive(Debug)]
pub(crate) struct Work {
    works: Arc<Works>,
    on: BTreeSet<Digest>,
}

impl Works {
    /// Somebody begins, with what is not known yet: no blob goes from now on.
    pub(crate) fn begin(self: &Arc<Self>) -> Work {
        lock(&self.state).works += 1;
        Work {
            works: Arc::clone(self),
            on: BTreeSet::new(),
        }
    }

    /// Whoever is at work, or begins to be, counts as being so for as long as the value lives.
    pub(crate) fn planning(&self) -> Planning<'_> {
        lock(&self.state).plans += 1;
        Planning(self)
    }

    /// Whether anybody is.
    pub(crate) fn any(&self) -> bool {
        lock(&self.state).works > 0
    }

    /// The manifests of the images, and their layers.
    pub(crate) fn on(&self) -> BTreeSet<Digest> {
        lock(&self.state).on.keys().copied().collect()
    }

    /// Takes something away, unless somebody is at work on a manifest or layer: then `None`. Nobody begins with it meanwhile. Where
    /// another one is taking of it, that is waited for.
    pub(crate) fn unless_on<T>(&self, it: &Digest, take: impl FnOnce() -> T) -> Option<T> {
        self.if_so(it, |on| on.is_none(), take)
    }

    fn if_so<T>(
        &self,
        it: &Digest,
        is_so: impl FnOnce(Option<&Count>) -> bool,
        take: impl FnOnce() -> T,
    ) -> Option<T> {
        {
            let mut state = self.when_none_goes(|going| going.contains(it));
            if !is_so(state.on.get(it)) {
                return None;
            }
            state.going.insert(*it);
        }
        let _going = Going { works: self, it };
        Some(take())
    }

    /// The state when nothing of it is being taken away.
    fn when_none_goes(&self, of: impl Fn(&BTreeSet<Digest>) -> bool) -> MutexGuard<'_, State> {
        let goes = |state: &mut State| of(&state.going);
        let state = self.taken.wait_while(lock(&self.state), goes);
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes something away, unless anybody is at work.
    pub(crate) fn unless_any<T>(&self, take: impl FnOnce() -> T) -> Option<T> {
        let state = lock(&self.state);
        (state.works == 0).then(take)
    }
}

/// Somebody plans what goes, until this is dropped.
#[derive(Debug)]
pub(crate) struct Planning<'a>(&'a Works);

impl Drop for Planning<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.plans -= 1;
        if state.plans == 0 {
            for on in std::mem::take(&mut state.over) {
                state.end(&on);
            }
        }
    }
}

/// Something is being taken away, until this is dropped.
struct Going<'a> {
    works: &'a Works,
    it: &'a Digest,
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        lock(&self.works.state).going.remove(self.it);
        self.works.taken.notify_all();
    }
}

impl Work {
    /// The same work, on an image.
    pub(crate) fn on(self, image: &Image) -> Self {
        let layers = image.layers.iter().map(|layer| layer.diff_id.0);
        self.on_all(layers.chain([image.digest]))
    }

    /// What nobody else is on, as long as nobody begins with it.
    pub(crate) fn alone(&self) -> Alone<'_> {
        let state = lock(&self.works.state);
        let mine = |it: &Digest| state.on.get(it).filter(|on| on.now == 1);
        let on = self.on.iter();
        let since = on.filter_map(|it| Some((*it, mine(it)?.ever)));
        Alone {
            works: &self.works,
            since: since.collect(),
        }
    }

    fn on_all(mut self, all: impl IntoIterator<Item = Digest>) -> Self {
        self.on.extend(all);
        let of = |going: &BTreeSet<Digest>| self.on.iter().any(|it| going.contains(it));
        let mut state = self.works.when_none_goes(of);
        for it in &self.on {
            let count = state.on.entry(*it).or_default();
            count.now += 1;
            count.ever += 1;
        }
        drop(state);
        self
    }
}

/// What one work is on, and no other was when this was made.
#[derive(Debug)]
pub(crate) struct Alone<'a> {
    works: &'a Works,
    /// How many had been on each by then.
    since: BTreeMap<Digest, usize>,
}

impl Alone<'_> {
    /// Takes something away, unless somebody else is on it, or was since: then `None`.
    pub(crate) fn unless_others_came<T>(&self, it: &Digest, take: impl FnOnce() -> T) -> Option<T> {
        let since = self.since.get(it)?;
        let is_alone = |on: Option<&Count>| on.is_some_and(|on| on.ever == *since);
        self.works.if_so(it, is_alone, take)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut state = lock(&self.works.state);
        let on = std::mem::take(&mut self.on);
        match state.plans {
            0 => state.end(&on),
            _ => state.over.push(on),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_somebody_is_at_work_on_stays() {
        let (works, [a, b]) = (
            Arc::<Works>::default(),
            [b"a", b"b"].map(|it| Digest::of(it)),
        );
        let found = works.begin();
        assert_eq!(
            (works.unless_any(|| ()), works.unless_on(&a, || 1)),
            (None, Some(1))
        );
        let (one, other) = (found.on_all([a]), works.begin().on_all([a, b]));
        assert_eq!(
            (works.unless_on(&a, || 1), works.unless_on(&b, || 1)),
            (None, None)
        );
        drop(other);
        assert_eq!(
            (works.unless_on(&a, || 1), works.unless_on(&b, || 1)),
            (None, Some(1))
        );
        drop(one);
        assert_eq!(
            (works.unless_any(|| 1), works.unless_on(&a, || 1)),
            (Some(1), Some(1))
        );
        assert!(works.on().is_empty() && !works.any());
    }

    #[test]
    fn what_others_were_on_since_is_left_to_them() {
        let (works, [a, b, c]) = (
            Arc::<Works>::default(),
            [b"a", b"b", b"c"].map(|it| Digest::of(it)),
        );
        let (mine, other) = (works.begin().on_all([a, b]), works.begin().on_all([b]));
        let alone = mine.alone();
        let takes = || [a, b, c].map(|it| alone.unless_others_came(&it, || 1));
        assert_eq!(takes(), [Some(1), None, None]);
        drop(other);
        drop(works.begin().on_all([c]));
        assert_eq!(takes(), [Some(1), None, None]);
        drop(works.begin().on_all([a]));
        assert_eq!(takes(), [None; 3]);
        assert_eq!(mine.alone().unless_others_came(&b, || 1), Some(1));
    }

    #[test]
    fn work_that_ends_while_it_is_planned_what_goes_counts_until_that_is_over() {
        let (works, a) = (Arc::<Works>::default(), Digest::of(b"a"));
        let before = works.begin();
        let (planning, other) = (works.planning(), works.planning());
        drop((before, works.begin().on_all([a])));
        drop(other);
        assert_eq!(
            (works.unless_any(|| 1), works.unless_on(&a, || 1)),
            (None, None)
        );
        drop(planning);
        assert_eq!(
            (works.unless_any(|| 1), works.unless_on(&a, || 1)),
            (Some(1), Some(1))
        );
    }

    /// Does something while `it` is being taken away; then, when that goes on, `waits` has to see it gone.
    fn while_it_goes(
        works: &Arc<Works>,
        it: &Digest,
        meanwhile: impl FnOnce(),
        waits: impl FnOnce(&AtomicBool) -> bool + Send,
    ) {
        let (gone, (begin, begun), (end, ended)) = (AtomicBool::new(false), channel(), channel());
        std::thread::scope(|scope| {
            let gone = &gone;
            let take = move || {
                begin.send(()).unwrap();
                ended.recv().unwrap();
                gone.store(true, Ordering::SeqCst);
            };
            scope.spawn(move || works.unless_on(it, take).unwrap());
            begun.recv().unwrap();
            meanwhile();
            let waits = scope.spawn(move || waits(gone));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!waits.is_finished());
            end.send(()).unwrap();
            assert!(waits.join().unwrap(), "it was not gone yet");
        });
    }

    #[test]
    fn who_begins_waits_for_what_is_taken_away_and_for_nothing_else() {
        let (works, [a, b]) = (
            Arc::<Works>::default(),
            [b"a", b"b"].map(|it| Digest::of(it)),
        );
        let of_another = || drop(works.begin().on_all([b]));
        while_it_goes(&works, &a, of_another, |gone| {
            let _work = works.begin().on_all([a, b]);
            gone.load(Ordering::SeqCst)
        });
    }

    #[test]
    fn who_takes_what_another_one_is_taking_waits_and_takes_what_is_left() {
        let (works, a) = (Arc::<Works>::default(), Digest::of(b"a"));
        while_it_goes(
            &works,
            &a,
            || (),
            |gone| {
                let taken = works.unless_on(&a, || gone.load(Ordering::SeqCst));
                taken.expect("nobody is at work on it")
            },
        );
    }
}
