//! Memory that can be recognised.
//!
//! `fill` takes memory and fills every page with words that follow from the seed and the page's number, none of them
//! zero; the first word follows from the page's generation too. So no page can be mistaken for another, for a hole or for
//! an older self. `dirty` goes round and gives each page its next generation, after checking that it still has its
//! present one; it touches one word of a page, because an emulated processor is slow and a page is dirty all the same.
//! `verify` checks every word.
//!
//! States of the dirtying: off, or running in one thread that carries the number of its run; whoever starts or stops
//! the dirtying takes the next number, and the thread of an old one ends before its next step.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{Answer, protocol};

/// 64-bit words in a page of 4 KiB.
const PAGE_WORDS: usize = 512;
/// Pages in one MiB.
const PAGES_PER_MIB: u64 = 256;
/// Most memory one may ask for, in MiB; more than any test guest has, so that arithmetic stays far from overflow.
const MAX_MIB: u64 = 1 << 20;
/// Pages rewritten while the lock is held: 256 KiB, so that other commands never wait long.
const STEP_PAGES: usize = 64;
/// The rate that means "as fast as it goes", in MiB/s.
const UNLIMITED: u64 = u64::MAX;
/// Pause between two steps without a rate: the lock is not fair, and without it other commands would wait for ever.
const BREATH: Duration = Duration::from_micros(20);

/// The filled memory and who may touch it.
#[derive(Default)]
pub struct Arena {
    pages: Mutex<Pages>,
    /// The number of the latest run of the dirtying.
    run: AtomicU64,
}

#[derive(Default)]
struct Pages {
    seed: u64,
    words: Vec<u64>,
    /// How often each page was rewritten.
    generations: Vec<u64>,
    /// The next page to dirty.
    next: usize,
    /// Pages found wrong by the dirtying thread.
    mismatches: u64,
    /// Pages rewritten since the fill.
    rewritten: u64,
}

impl Arena {
    /// Replaces the content by `mib` MiB that follow from `seed`.
    pub fn fill(&self, mib: u64, seed: u64) -> Answer {
        if mib > MAX_MIB {
            return Err(format!("at most {MAX_MIB} MiB can be filled"));
        }
        let pages = usize::try_from(mib * PAGES_PER_MIB).map_err(|error| error.to_string())?;
        let mut held = self.lock();
        // The old memory goes first: both together may not fit.
        *held = Pages::default();
        let mut words = Vec::new();
        words.try_reserve_exact(pages * PAGE_WORDS).map_err(|error| format!("cannot take {mib} MiB: {error}"))?;
        for page in 0..pages {
            words.push(first_word(seed, page, 0));
            words.extend(other_words(seed, page));
        }
        *held = Pages { seed, words, generations: vec![0; pages], ..Pages::default() };
        Ok(format!("pages={pages}"))
    }

    /// Checks every page against its generation and the seed.
    pub fn verify(&self, seed: u64) -> Answer {
        let held = self.lock();
        let mut wrong = 0;
        let mut checksum = 0_u64;
        for (page, content) in held.words.chunks_exact(PAGE_WORDS).enumerate() {
            let generation = held.generations[page];
            wrong += u64::from(!is_intact(content, seed, page, generation));
            checksum = content.iter().fold(checksum, |sum, word| sum.rotate_left(1).wrapping_add(*word));
        }
        Ok(format!(
            "pages={} mismatches={wrong} checksum={checksum:016x} dirty-mismatches={} rewritten={}",
            held.generations.len(),
            held.mismatches,
            held.rewritten
        ))
    }

    /// Overwrites everything with something that no seed makes and ends the dirtying.
    pub fn scribble(&self) {
        self.run.fetch_add(1, Ordering::Relaxed);
        self.lock().words.fill(0xdead_beef_dead_beef);
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the next few pages their next generation; `false` when there is nothing to dirty.
    fn step(&self) -> bool {
        let mut held = self.lock();
        let held = &mut *held;
        let pages = held.generations.len();
        for _ in 0..STEP_PAGES.min(pages) {
            let page = held.next % pages;
            let generation = held.generations[page];
            let first = &mut held.words[page * PAGE_WORDS];
            held.mismatches += u64::from(*first != first_word(held.seed, page, generation));
            *first = first_word(held.seed, page, generation + 1);
            held.generations[page] = generation + 1;
            held.next = page + 1;
            held.rewritten += 1;
        }
        pages > 0
    }
}

/// Starts, retunes or ends the dirtying: `max`, `stop`, or MiB per second.
pub fn dirty(arena: &Arc<Arena>, argument: &str) -> Answer {
    let rate = match argument {
        "stop" => 0,
        "max" => UNLIMITED,
        rate => protocol::number(rate, "the rate")?,
    };
    let run = arena.run.fetch_add(1, Ordering::Relaxed) + 1;
    if rate > 0 {
        let arena = Arc::clone(arena);
        std::thread::spawn(move || keep_dirtying(&arena, run, rate));
    }
    let held = arena.lock();
    Ok(format!("mismatches={} rewritten={}", held.mismatches, held.rewritten))
}

fn keep_dirtying(arena: &Arena, run: u64, rate: u64) {
    let bytes_per_step = STEP_PAGES as u64 * 4096;
    let started = Instant::now();
    let mut done = 0_u64;
    while arena.run.load(Ordering::Relaxed) == run && arena.step() {
        done += bytes_per_step;
        let due = Duration::from_micros(done.saturating_mul(1_000_000) / rate.saturating_mul(1 << 20).max(1));
        std::thread::sleep(due.saturating_sub(started.elapsed()).max(BREATH));
    }
}

fn is_intact(content: &[u64], seed: u64, page: usize, generation: u64) -> bool {
    let (first, others) = content.split_first().expect("a page has words");
    *first == first_word(seed, page, generation) && others.iter().copied().eq(other_words(seed, page))
}

/// All words of a page but the first: cheap to compute, and different for every page and place.
fn other_words(seed: u64, page: usize) -> impl Iterator<Item = u64> {
    let base = first_word(seed, page, u64::MAX);
    (1..PAGE_WORDS as u64).map(move |index| base.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1)
}

/// The first word of a page: the finaliser of SplitMix64 over seed, page and generation, with the lowest bit set so that
/// it is never zero.
fn first_word(seed: u64, page: usize, generation: u64) -> u64 {
    let mut z = seed
        .wrapping_mul(0xd6e8_feb8_6659_fd93)
        .wrapping_add(generation.wrapping_mul(0xa076_1d64_78bd_642f))
        .wrapping_add((page as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(arena: &Arena, seed: u64, expected: &str) {
        let answer = arena.verify(seed).unwrap();
        let (counts, rest) = answer.split_once(" checksum=").unwrap();
        let (_, dirt) = rest.split_once(' ').unwrap();
        assert_eq!(format!("{counts} {dirt}"), expected);
    }

    #[test]
    fn a_fill_is_recognised_by_its_seed_only() {
        let arena = Arena::default();
        arena.fill(1, 7).unwrap();
        check(&arena, 7, "pages=256 mismatches=0 dirty-mismatches=0 rewritten=0");
        check(&arena, 8, "pages=256 mismatches=256 dirty-mismatches=0 rewritten=0");
    }

    #[test]
    fn dirtying_keeps_pages_right_and_notices_wrong_ones() {
        let arena = Arena::default();
        arena.fill(1, 7).unwrap();
        assert!(arena.step());
        check(&arena, 7, "pages=256 mismatches=0 dirty-mismatches=0 rewritten=64");
        arena.lock().words[100 * PAGE_WORDS] ^= 1 << 40;
        arena.lock().words[200 * PAGE_WORDS + 5] ^= 1 << 40;
        check(&arena, 7, "pages=256 mismatches=2 dirty-mismatches=0 rewritten=64");
        assert!(arena.step());
        check(&arena, 7, "pages=256 mismatches=1 dirty-mismatches=1 rewritten=128");
    }

    #[test]
    fn scribbled_memory_is_all_wrong() {
        let arena = Arena::default();
        arena.fill(1, 7).unwrap();
        arena.scribble();
        check(&arena, 7, "pages=256 mismatches=256 dirty-mismatches=0 rewritten=0");
    }

    #[test]
    fn nothing_filled_is_nothing_to_dirty() {
        let arena = Arena::default();
        assert!(!arena.step());
        check(&arena, 7, "pages=0 mismatches=0 dirty-mismatches=0 rewritten=0");
    }
}
