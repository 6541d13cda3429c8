//! Chance that can be had again by its seed, and that leaves nothing out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers that look random; the same for the same seed.
#[derive(Debug)]
pub(crate) struct Chance(AtomicU64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed | 1))
    }

    /// Less than `end`.
    pub(crate) fn below(&self, end: u64) -> u64 {
        let step = |state: u64| {
            state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407)
        };
        let state = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| {
                Some(step(state))
            });
        (state.unwrap_or_else(|state| state) >> 33) % end
    }

    fn index(&self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }
}

/// What may be done. What was not yet comes first, in an order of chance; when all of it was, anything
/// does, and what is in it more than once more often.
#[derive(Debug)]
pub(crate) struct Deck<T> {
    cards: Vec<T>,
    done: BTreeMap<T, u64>,
}

impl<T: Copy + Ord> Deck<T> {
    pub(crate) fn new(mut cards: Vec<T>, chance: &Chance) -> Self {
        for end in (2..=cards.len()).rev() {
            cards.swap(end - 1, chance.index(end));
        }
        let done = cards.iter().map(|card| (*card, 0)).collect();
        Self { cards, done }
    }

    /// One of those that suit. That it was drawn does not say that it is done: if nothing comes of it, its
    /// turn comes again, after that of the others.
    pub(crate) fn draw(&mut self, chance: &Chance, suits: impl Fn(T) -> bool) -> Option<T> {
        let suitable = |at: &usize| suits(self.cards[*at]);
        let suitable: Vec<usize> = (0..self.cards.len()).filter(suitable).collect();
        let is_due = |at: &usize| self.done[&self.cards[*at]] == 0;
        let at = match suitable.iter().copied().find(is_due) {
            Some(at) => at,
            None if suitable.is_empty() => return None,
            None => suitable[chance.index(suitable.len())],
        };
        let card = self.cards.remove(at);
        self.cards.push(card);
        Some(card)
    }

    /// It was done.
    pub(crate) fn count(&mut self, card: T) {
        *self.done.entry(card).or_default() += 1;
    }

    /// How often each was done.
    pub(crate) fn done(&self) -> &BTreeMap<T, u64> {
        &self.done
    }

    /// What never was.
    pub(crate) fn due(&self) -> Vec<T> {
        let due = self.done.iter().filter(|(_, times)| **times == 0);
        due.map(|(card, _)| *card).collect()
    }
}

#[test]
fn a_deck_leaves_nothing_out() {
    for seed in 0..100 {
        let chance = Chance::new(seed);
        let mut deck = Deck::new(vec![1, 1, 2, 3, 4], &chance);
        // One comes to nothing the first time, one suits every other time only.
        let mut spoiled = false;
        for time in 0..8 {
            let card = deck
                .draw(&chance, |card| card != 4 || time % 2 == 1)
                .unwrap();
            match card == 2 && !spoiled {
                true => spoiled = true,
                false => deck.count(card),
            }
        }
        assert!(deck.due().is_empty(), "{deck:?}");
        assert_eq!(deck.draw(&chance, |_| false), None);
    }
}
