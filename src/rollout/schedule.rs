//! Which samples are decoded next, and in which pages of the cache: arithmetic on lengths, without a device.
//!
//! Decoding goes in windows of [`WINDOW`] tokens. Before each, the running samples get the page that the window fills,
//! and waiting ones take the places and pages that are free. Longest limits start first, samples of a prompt one after
//! another; a prompt stays in the cache as long as any of its samples waits or runs. Where pages run out, prompts that
//! only have waiting samples go, then the youngest sample: it keeps its tokens, and later goes on from them, with
//! the same bits except under [`MatmulPrecision::High`](crate::config::MatmulPrecision::High), whose decode steps round otherwise.

use super::stats::RolloutStats;
use crate::kernels::attention::PAGE;
use std::collections::VecDeque;

/// Tokens decoded between two readbacks.
pub(super) const WINDOW: usize = 8;

// A sample's rows of one window lie in one page, so that its next cache row is the last one plus 1.
const _: () = assert!(PAGE.is_multiple_of(WINDOW));

/// A prompt and the samples wanted of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    /// Tokens of the prompt, at least 1.
    pub(super) prompt: usize,
    pub(super) samples: usize,
    /// Most tokens of a sample, at least 1.
    pub(super) limit: usize,
}

impl Work {
    fn prompt_pages(&self) -> usize {
        self.prompt.div_ceil(PAGE)
    }

    /// Pages of a sample that reaches its limit: one from the start; its last token is never fed back.
    fn sample_pages(&self) -> usize {
        (self.limit - 1).div_ceil(PAGE).max(1)
    }
}

/// A sample that is being decoded.
#[derive(Debug)]
pub(super) struct Seat {
    /// Its prompt's number in the work.
    pub(super) group: usize,
    /// Its number among the prompt's samples.
    pub(super) sample: usize,
    /// Tokens drawn so far.
    pub(super) drawn: usize,
    /// Pages of its own tokens.
    pub(super) pages: Vec<u32>,
    /// Whether this turn admitted it.
    pub(super) admitted: bool,
    /// Grows with every admission.
    age: u64,
}

impl Seat {
    /// Own tokens in the cache when the next step begins.
    pub(super) fn fed(&self) -> usize {
        fed(self.drawn)
    }

    /// The cache row that the next step writes.
    pub(super) fn cache_row(&self) -> u32 {
        row_in(&self.pages, self.fed())
    }
}

/// Own tokens in the cache when `drawn` are drawn: all but the last.
fn fed(drawn: usize) -> usize {
    drawn.saturating_sub(1)
}

/// The cache row of row `at` of a range in `pages`.
pub(super) fn row_in(pages: &[u32], at: usize) -> u32 {
    pages[at / PAGE] * PAGE as u32 + (at % PAGE) as u32
}

/// A sample that is not in the cache.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    group: usize,
    sample: usize,
    drawn: usize,
}

/// A prompt in the cache.
#[derive(Debug)]
struct Resident {
    group: usize,
    pages: Vec<u32>,
    /// Where the state after its last token is kept.
    slot: usize,
    running: usize,
}

/// What is to be done before and in the next window.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// Prompts to be computed into the cache.
    pub(super) prompts: Vec<usize>,
    /// Seats whose tokens so far are to be computed into the cache after that.
    pub(super) resumed: Vec<usize>,
    /// The first this many seats have no token yet: they draw one from their prompt's state before the window.
    pub(super) new: usize,
    /// Tokens to decode.
    pub(super) steps: usize,
}

/// The pages of all ranges one after another, and where each begins.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) pages: Vec<u32>,
    /// First entry of each prompt that is in the cache; by its number in the work.
    pub(super) prompts: Vec<u32>,
    /// First entry of each seat's own tokens.
    pub(super) own: Vec<u32>,
}

/// The samples of some prompts, waiting and running.
pub(super) struct Schedule {
    work: Vec<Work>,
    waiting: VecDeque<Waiting>,
    seats: Vec<Seat>,
    resident: Vec<Resident>,
    /// Samples of each prompt that neither run nor are done.
    left: Vec<usize>,
    free: Vec<u32>,
    slots: Vec<usize>,
    sequences: usize,
    pages: usize,
    age: u64,
    stats: RolloutStats,
}

impl Schedule {
    /// `sequences` places and `pages` pages; each prompt must fit with one of its samples.
    pub(super) fn new(work: &[Work], sequences: usize, pages: usize) -> Self {
        let mut order: Vec<usize> = (0..work.len()).collect();
        order.sort_by_key(|i| std::cmp::Reverse(work[*i].limit));
        let samples = |group: usize| {
            (0..work[group].samples).map(move |sample| Waiting {
                group,
                sample,
                drawn: 0,
            })
        };
        Self {
            work: work.to_vec(),
            waiting: order.into_iter().flat_map(samples).collect(),
            seats: Vec::new(),
            resident: Vec::new(),
            left: work.iter().map(|w| w.samples).collect(),
            free: (0..pages as u32).rev().collect(),
            slots: (0..sequences).rev().collect(),
            sequences,
            pages,
            age: 0,
            stats: RolloutStats::default(),
        }
    }

    /// The samples that run, in the order of the batch.
    pub(super) fn seats(&self) -> &[Seat] {
        &self.seats
    }

    /// The pages of a prompt in the cache, and where its state is kept.
    pub(super) fn prompt(&self, group: usize) -> Option<(&[u32], usize)> {
        let found = self.resident.iter().find(|r| r.group == group);
        found.map(|r| (&r.pages[..], r.slot))
    }

    /// What was done so far.
    pub(super) fn stats(&self) -> RolloutStats {
        self.stats
    }

    /// Prepares the next window; `None` when every sample is done.
    pub(super) fn next(&mut self) -> Option<Turn> {
        self.seats.iter_mut().for_each(|s| s.admitted = false);
        let crowded = self.grow();
        let mut turn = Turn::default();
        if !crowded {
            self.admit(&mut turn.prompts);
        }
        // Rows of a prompt side by side: they read the same keys.
        self.seats.sort_by_key(|s| (s.drawn > 0, s.group, s.sample));
        turn.new = self.seats.iter().filter(|s| s.drawn == 0).count();
        let resumed = |s: &Seat| s.admitted && s.drawn > 0;
        turn.resumed = (0..self.seats.len())
            .filter(|i| resumed(&self.seats[*i]))
            .collect();
        let left = |s: &Seat| self.work[s.group].limit.saturating_sub(s.drawn.max(1));
        turn.steps = self.seats.iter().map(left).max()?.min(WINDOW);
        self.count(&turn);
        Some(turn)
    }

    fn count(&mut self, turn: &Turn) {
        let s = &mut self.stats;
        s.prefill_tokens += turn.prompts.iter().map(|g| self.work[*g].prompt).sum::<usize>();
        s.prefill_tokens += turn.resumed.iter().map(|i| self.seats[*i].fed()).sum::<usize>();
        s.windows += 1;
        s.steps += turn.steps;
        s.places += turn.steps * self.sequences;
        s.peak_pages = s.peak_pages.max(self.pages - self.free.len());
    }

    /// Tells what was drawn since [`Schedule::next`]: for each seat how many tokens, and whether it is done.
    pub(super) fn drawn(&mut self, results: &[(usize, bool)]) {
        let mut done = results.iter().map(|r| r.1);
        for (seat, (tokens, _)) in self.seats.iter_mut().zip(results) {
            self.stats.tokens += tokens;
            // The first token comes from the prompt's state.
            self.stats.decoded += tokens - usize::from(seat.drawn == 0).min(*tokens);
            seat.drawn += tokens;
        }
        let (ended, seats): (Vec<Seat>, _) = std::mem::take(&mut self.seats)
            .into_iter()
            .partition(|_| done.next() == Some(true));
        self.seats = seats;
        for seat in ended {
            self.leave(&seat);
        }
    }

    /// Gives each running sample the page its next window fills, oldest first; whether any had to go for it.
    fn grow(&mut self) -> bool {
        self.seats.sort_by_key(|s| s.age);
        let (mut i, mut crowded) = (0, false);
        while i < self.seats.len() {
            if self.seats[i].pages.len() * PAGE > self.seats[i].fed() {
                i += 1;
            } else if let Some(page) = self.free.pop() {
                self.seats[i].pages.push(page);
            } else if !self.drop_idle(None) {
                crowded = true;
                self.send_back();
            }
        }
        crowded
    }

    /// The youngest sample back to the front of those that wait.
    fn send_back(&mut self) {
        let Some(seat) = self.seats.pop() else {
            return;
        };
        self.stats.sent_back += 1;
        self.left[seat.group] += 1;
        self.waiting.push_front(Waiting {
            group: seat.group,
            sample: seat.sample,
            drawn: seat.drawn,
        });
        self.leave(&seat);
    }

    /// Frees a sample's pages, and its prompt's if no sample of it is left.
    fn leave(&mut self, seat: &Seat) {
        self.free.extend(seat.pages.iter().rev());
        let Some(at) = self.resident.iter().position(|r| r.group == seat.group) else {
            return;
        };
        self.resident[at].running -= 1;
        if self.resident[at].running == 0 && self.left[seat.group] == 0 {
            self.drop_prompt(at);
        }
    }

    fn drop_prompt(&mut self, at: usize) {
        let prompt = self.resident.remove(at);
        self.free.extend(prompt.pages.iter().rev());
        self.slots.push(prompt.slot);
    }

    /// Drops a prompt, but `keep`, none of whose samples runs; whether there was one.
    fn drop_idle(&mut self, keep: Option<usize>) -> bool {
        let idle = |r: &Resident| r.running == 0 && Some(r.group) != keep;
        match self.resident.iter().rposition(idle) {
            Some(at) => {
                self.drop_prompt(at);
                true
            }
            None => false,
        }
    }

    /// Starts waiting samples, in their order, while there are places, pages to start with, and a page for each running
    /// sample that will need another.
    fn admit(&mut self, prompts: &mut Vec<usize>) {
        let will_grow = |s: &&Seat| s.pages.len() < self.work[s.group].sample_pages();
        let mut spare = self.seats.iter().filter(will_grow).count();
        while self.seats.len() < self.sequences {
            let Some(next) = self.waiting.front().copied() else {
                return;
            };
            let work = self.work[next.group];
            let own = fed(next.drawn) / PAGE + 1;
            let cached = self.resident.iter().any(|r| r.group == next.group);
            let need = own + if cached { 0 } else { work.prompt_pages() };
            let idle = |r: &&Resident| r.running == 0 && r.group != next.group;
            let idle: usize = self.resident.iter().filter(idle).map(|r| r.pages.len()).sum();
            if self.free.len() + idle < need + spare {
                return;
            }
            while self.free.len() < need + spare || (!cached && self.slots.is_empty()) {
                if !self.drop_idle(Some(next.group)) {
                    return;
                }
            }
            self.waiting.pop_front();
            if !cached {
                self.cache_prompt(next.group);
                prompts.push(next.group);
            }
            spare += usize::from(own < work.sample_pages());
            self.sit(next, own);
        }
    }

    fn cache_prompt(&mut self, group: usize) {
        let pages = self.take(self.work[group].prompt_pages());
        let slot = self.slots.pop().unwrap_or_default();
        self.resident.push(Resident {
            group,
            pages,
            slot,
            running: 0,
        });
    }

    fn sit(&mut self, next: Waiting, pages: usize) {
        let pages = self.take(pages);
        self.left[next.group] -= 1;
        if let Some(prompt) = self.resident.iter_mut().find(|r| r.group == next.group) {
            prompt.running += 1;
        }
        self.age += 1;
        self.seats.push(Seat {
            group: next.group,
            sample: next.sample,
            drawn: next.drawn,
            pages,
            admitted: true,
            age: self.age,
        });
    }

    fn take(&mut self, n: usize) -> Vec<u32> {
        self.free
            .split_off(self.free.len() - n)
            .into_iter()
            .rev()
            .collect()
    }

    /// The page table of the prompts and samples in the cache.
    pub(super) fn table(&self) -> Table {
        let mut table = Table {
            prompts: vec![0; self.work.len()],
            ..Table::default()
        };
        for prompt in &self.resident {
            table.prompts[prompt.group] = table.pages.len() as u32;
            table.pages.extend(&prompt.pages);
        }
        for seat in &self.seats {
            table.own.push(table.pages.len() as u32);
            table.pages.extend(&seat.pages);
        }
        table
    }
}
