//! Seeded draws shared by the tasks.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// The generator of the demo: portable, so the data are the same on every machine.
pub(crate) type Draw = ChaCha8Rng;

/// One of `items`, which must not be empty.
pub(crate) fn pick<T: Copy>(rng: &mut Draw, items: &[T]) -> T {
    items[rng.random_range(0..items.len())]
}

/// `n` letters out of the first `alphabet` of the alphabet, with repeats.
pub(crate) fn letters(rng: &mut Draw, n: usize, alphabet: u8) -> String {
    (0..n)
        .map(|_| char::from(b'a' + rng.random_range(0..alphabet)))
        .collect()
}

/// A pronounceable word of `n` letters: consonants and vowels in turn.
pub(crate) fn word(rng: &mut Draw, n: usize) -> String {
    const CONSONANTS: &[u8] = b"bcdfghklmnprstvwz";
    const VOWELS: &[u8] = b"aeiou";
    let offset = rng.random_range(0..2_usize);
    (0..n)
        .map(|i| {
            char::from(pick(
                rng,
                if (i + offset).is_multiple_of(2) {
                    CONSONANTS
                } else {
                    VOWELS
                },
            ))
        })
        .collect()
}

/// A wrong but plausible text: `edits` small slips in `answer` (swap, replace, drop, repeat), or from four on an echo
/// of what was asked about, itself with a slip half of the time.
pub(crate) fn slip(rng: &mut Draw, answer: &str, echo: &str, edits: usize) -> String {
    let (source, edits) = if edits >= 4 {
        (echo, rng.random_range(0..2))
    } else {
        (answer, edits)
    };
    let mut text: Vec<char> = source.chars().collect();
    for _ in 0..edits {
        one_slip(rng, &mut text);
    }
    if text.is_empty() {
        text.push('?');
    }
    text.into_iter().collect()
}

fn one_slip(rng: &mut Draw, text: &mut Vec<char>) {
    if text.is_empty() {
        return;
    }
    let at = rng.random_range(0..text.len());
    match rng.random_range(0..4_u8) {
        0 if text.len() > 1 => {
            let at = at.min(text.len() - 2);
            text.swap(at, at + 1);
        }
        1 if text.len() > 1 => {
            text.remove(at);
        }
        2 => {
            let c = text[at];
            text.insert(at, c);
        }
        _ => text[at] = neighbour(rng, text[at]),
    }
}

/// Another character of the same class.
fn neighbour(rng: &mut Draw, c: char) -> char {
    let shift = |rng: &mut Draw, base: u8, n: u8| {
        let offset = (c as u8 - base + rng.random_range(1..n)) % n;
        char::from(base + offset)
    };
    match c {
        'a'..='z' => shift(rng, b'a', 26),
        '0'..='9' => shift(rng, b'0', 10),
        '+' => pick(rng, &['-', '*']),
        '-' => pick(rng, &['+', '*']),
        '*' => pick(rng, &['+', '-']),
        _ => ' ',
    }
}
