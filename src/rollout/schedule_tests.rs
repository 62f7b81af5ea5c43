#![allow(clippy::unwrap_used, reason = "tests")]

use super::schedule::{Schedule, Seat, WINDOW, Work};
use super::stats::RolloutStats;
use crate::kernels::attention::PAGE;
use crate::rng::philox4x32;
use std::collections::BTreeSet;

fn work(prompt: usize, samples: usize, limit: usize) -> Work {
    Work {
        prompt,
        samples,
        limit,
    }
}

/// What a run did: every admission (group, sample, tokens drawn before), every prompt computed.
#[derive(Default)]
struct Log {
    admitted: Vec<(usize, usize, usize)>,
    prompts: Vec<usize>,
    stats: RolloutStats,
}

/// Runs made-up samples of `length` tokens to their ends and checks at every turn what must always hold.
fn run(work: &[Work], sequences: usize, pages: usize, length: impl Fn(usize, usize) -> usize) -> Log {
    let mut schedule = Schedule::new(work, sequences, pages);
    let mut log = Log::default();
    let mut drawn: Vec<Vec<usize>> = work.iter().map(|w| vec![0; w.samples]).collect();
    while let Some(turn) = schedule.next() {
        check_pages(&schedule, work, sequences, pages);
        let seats = schedule.seats();
        assert!(turn.steps <= WINDOW && !seats.is_empty());
        assert!(seats[..turn.new].iter().all(|s| s.drawn == 0 && s.admitted));
        assert!(seats[turn.new..].iter().all(|s| s.drawn > 0));
        for at in &turn.resumed {
            assert!(seats[*at].admitted && seats[*at].drawn > 0);
        }
        let admitted = seats.iter().filter(|s| s.admitted);
        log.admitted
            .extend(admitted.map(|s| (s.group, s.sample, s.drawn)));
        log.prompts.extend(&turn.prompts);
        let results: Vec<(usize, bool)> = seats
            .iter()
            .map(|s| {
                let before = &mut drawn[s.group][s.sample];
                assert_eq!(s.drawn, *before);
                let end = length(s.group, s.sample).min(work[s.group].limit);
                let tokens = (turn.steps + usize::from(s.drawn == 0)).min(end - *before);
                assert!(tokens > 0 || turn.steps == 0);
                *before += tokens;
                (tokens, *before == end)
            })
            .collect();
        schedule.drawn(&results);
    }
    for (group, w) in work.iter().enumerate() {
        for (sample, drawn) in drawn[group].iter().enumerate() {
            assert_eq!(*drawn, length(group, sample).min(w.limit));
        }
    }
    log.stats = schedule.stats();
    assert_eq!(log.stats.tokens, drawn.iter().flatten().sum::<usize>());
    log
}

/// No page belongs to two, the table names each once, every window's rows have a page, and the next page is the same.
fn check_pages(schedule: &Schedule, work: &[Work], sequences: usize, pages: usize) {
    let (seats, table) = (schedule.seats(), schedule.table());
    assert!(seats.len() <= sequences);
    assert!(table.pages.iter().all(|p| (*p as usize) < pages));
    let distinct: BTreeSet<u32> = table.pages.iter().copied().collect();
    assert_eq!(distinct.len(), table.pages.len());
    let places: BTreeSet<(usize, usize)> = seats.iter().map(|s| (s.group, s.sample)).collect();
    assert_eq!(places.len(), seats.len());
    let mut slots = BTreeSet::new();
    for (seat, own) in seats.iter().zip(&table.own) {
        let (prompt, slot) = schedule.prompt(seat.group).unwrap();
        assert_eq!(prompt.len(), work[seat.group].prompt.div_ceil(PAGE));
        assert!(slot < sequences);
        slots.insert((seat.group, slot));
        let from = table.prompts[seat.group] as usize;
        assert_eq!(&table.pages[from..from + prompt.len()], prompt);
        let from = *own as usize;
        assert_eq!(&table.pages[from..from + seat.pages.len()], seat.pages);
        check_rows(seat);
    }
    let distinct: BTreeSet<usize> = slots.iter().map(|s| s.1).collect();
    assert_eq!(distinct.len(), slots.len());
}

fn check_rows(seat: &Seat) {
    let row = seat.cache_row() as usize;
    let page = seat.pages[seat.fed() / PAGE] as usize;
    assert_eq!(row, page * PAGE + seat.fed() % PAGE);
    assert_eq!((row + WINDOW - 1) / PAGE, page, "a window leaves its page");
}

/// Lengths from 1 to `most`, the same at every call.
fn made_up(most: usize) -> impl Fn(usize, usize) -> usize {
    move |group, sample| {
        let word = philox4x32([group as u32, sample as u32, 3, 4], [5, 6])[0];
        1 + word as usize % most
    }
}

/// Pages for every prompt once and every place at its limit.
fn ample(work: &[Work], sequences: usize) -> usize {
    let longest = work.iter().map(|w| w.limit.div_ceil(PAGE)).max().unwrap();
    work.iter().map(|w| w.prompt.div_ceil(PAGE)).sum::<usize>() + sequences * longest
}

#[test]
fn places_are_taken_again_at_once() {
    let work = [work(20, 256, 200), work(7, 256, 200)];
    let length = made_up(200);
    let log = run(&work, 32, ample(&work, 32), &length);
    assert_eq!(log.stats.sent_back, 0);
    assert_eq!(log.prompts, [0, 1]);
    assert_eq!(log.stats.prefill_tokens, 27);
    // Waves of 32, each as long as its longest sample and its places in whole windows, would take this many steps.
    let wave = |g: usize, from: usize| (from..from + 32).map(|s| length(g, s)).max().unwrap();
    let waves: usize = (0..2).flat_map(|g| (0..8).map(move |i| wave(g, 32 * i))).sum();
    assert!(
        log.stats.steps * 4 < waves * 3,
        "{} steps, {waves} in waves",
        log.stats.steps
    );
    assert!(log.stats.occupancy() > 0.8, "{}", log.stats.occupancy());
}

#[test]
fn longest_limits_start_first_and_samples_of_a_prompt_together() {
    let work = [work(5, 3, 10), work(5, 2, 90), work(5, 2, 10), work(5, 1, 40)];
    let log = run(&work, 1, 100, |_, _| 1000);
    let order: Vec<(usize, usize)> = log.admitted.iter().map(|a| (a.0, a.1)).collect();
    assert_eq!(
        order,
        [(1, 0), (1, 1), (3, 0), (0, 0), (0, 1), (0, 2), (2, 0), (2, 1)]
    );
    assert_eq!(log.prompts, [1, 3, 0, 2]);
}

/// Rows for all at full length are enough for all at full length: nothing waits, nothing is sent back.
#[test]
fn what_fits_at_full_length_never_gives_way() {
    for limit in [1, 2, 8, 9, 10, 16, 17, 64] {
        for prompt in [1, 8, 13] {
            let work = [work(prompt, 6, limit), work(prompt, 6, limit)];
            let pages = 2 * prompt.div_ceil(PAGE) + 12 * (limit - 1).div_ceil(PAGE).max(1);
            let log = run(&work, 12, pages, |_, _| limit);
            assert_eq!(log.stats.sent_back, 0, "limit {limit}, prompt {prompt}");
            assert_eq!(log.stats.peak_pages, pages);
            assert_eq!(
                (log.stats.steps, log.stats.decoded),
                (limit - 1, 12 * (limit - 1))
            );
            assert_eq!(log.stats.occupancy(), 1.0);
        }
    }
}

/// Memory follows actual lengths: samples that end early leave their rows to others.
#[test]
fn short_samples_need_few_pages() {
    let work = [work(16, 40, 400)];
    let log = run(&work, 20, 60, |_, sample| if sample == 7 { 400 } else { 12 });
    assert_eq!(log.stats.sent_back, 0);
    assert!(log.stats.peak_pages < 60);
    // All forty beside the one long sample.
    assert_eq!(log.stats.steps, 399);
    assert_eq!(log.prompts, [0]);
}

#[test]
fn the_youngest_gives_way_and_goes_on_from_its_tokens() {
    // Room for the prompt and seven pages; three samples would take fifteen.
    let work = [work(8, 3, 41)];
    let log = run(&work, 3, 8, |_, _| 41);
    assert!(log.stats.sent_back > 0);
    // The oldest never gives way; what comes back has the tokens it had.
    assert_eq!(log.admitted.iter().filter(|a| a.1 == 0).count(), 1);
    let again: Vec<_> = log.admitted.iter().filter(|a| a.2 > 0).collect();
    assert_eq!(again.len(), log.stats.sent_back);
    assert_eq!(log.stats.decoded, 3 * 40);
    let resumed: usize = again.iter().map(|a| a.2 - 1).sum();
    assert_eq!(log.stats.prefill_tokens, 8 * log.prompts.len() + resumed);
}

#[test]
fn a_cache_for_one_sample_alone_is_enough() {
    let work = [work(17, 3, 30), work(3, 4, 44), work(40, 2, 1), work(1, 1, 9)];
    let least = work
        .iter()
        .map(|w| w.prompt.div_ceil(PAGE) + (w.limit - 1).div_ceil(PAGE).max(1))
        .max()
        .unwrap();
    let log = run(&work, 4, least, made_up(50));
    assert!(log.stats.peak_pages <= least);
    let log = run(&work, 4, least, |_, _| 50);
    assert!(log.stats.peak_pages <= least);
}

/// Every size of cache from the least up, with limits and lengths of all kinds: all samples run to their ends, and never
/// is a sample decoded twice.
#[test]
fn every_cache_serves_every_work() {
    let mut steps = [0; 4];
    for seed in 0..40u32 {
        let word = |i: u32| philox4x32([seed, i, 0, 0], [1, 2])[0] as usize;
        let jobs = 1 + word(0) % 6;
        let work: Vec<Work> = (0..jobs as u32)
            .map(|j| work(1 + word(9 + j) % 40, word(20 + j) % 12, 1 + word(30 + j) % 60))
            .collect();
        let sequences = 1 + word(1) % 20;
        let least = work
            .iter()
            .map(|w| w.prompt.div_ceil(PAGE) + (w.limit - 1).div_ceil(PAGE).max(1))
            .max()
            .unwrap();
        let most = ample(&work, sequences);
        for (i, pages) in [least, least + 1, (least + most) / 2, most]
            .into_iter()
            .enumerate()
        {
            let log = run(&work, sequences, pages, made_up(60));
            let samples: usize = work.iter().map(|w| w.samples).sum();
            assert_eq!(log.admitted.len(), samples + log.stats.sent_back);
            assert!(log.stats.peak_pages <= pages && log.stats.occupancy() <= 1.0);
            steps[i] += log.stats.steps;
        }
        // Prompts of early groups are computed once where there is room for all.
        let log = run(&work, sequences, most, made_up(60));
        let wanted = work.iter().filter(|w| w.samples > 0).count();
        assert_eq!(
            (log.prompts.len(), log.stats.sent_back),
            (wanted, 0),
            "seed {seed}"
        );
    }
    // Room saves steps (of one work it need not: windows fall otherwise).
    assert!(steps.is_sorted_by(|a, b| a > b), "{steps:?}");
}

#[test]
fn no_work_takes_no_turn() {
    assert!(Schedule::new(&[], 4, 4).next().is_none());
    assert!(Schedule::new(&[work(3, 0, 5)], 4, 4).next().is_none());
}
