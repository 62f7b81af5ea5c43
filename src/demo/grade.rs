//! Pieces of the true scores.

/// The most a wrong answer can score.
const WRONG_AT_MOST: f64 = 0.85;

/// 1 for a right answer; otherwise at most 0.85, falling with the square of the likeness in [0, 1], so that the last
/// steps towards a right answer gain most.
pub(crate) fn grade(right: bool, likeness: f64) -> f64 {
    if right {
        1.0
    } else {
        WRONG_AT_MOST * likeness.clamp(0.0, 1.0).powi(2)
    }
}

/// 1 − Levenshtein distance over the longer length, in characters; 1 for two empty texts.
pub(crate) fn edit_similarity(a: &str, b: &str) -> f64 {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let longest = a.len().max(b.len());
    if longest == 0 {
        return 1.0;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    1.0 - row[b.len()] as f64 / longest as f64
}

/// Share of positions that hold the same character, over the longer length.
pub(crate) fn position_match(a: &str, b: &str) -> f64 {
    let longest = a.chars().count().max(b.chars().count());
    if longest == 0 {
        return 1.0;
    }
    a.chars().zip(b.chars()).filter(|(x, y)| x == y).count() as f64 / longest as f64
}

/// Size of the common multiset of characters over the longer length.
pub(crate) fn shared_characters(a: &str, b: &str) -> f64 {
    let longest = a.chars().count().max(b.chars().count());
    if longest == 0 {
        return 1.0;
    }
    let mut left: Vec<char> = b.chars().collect();
    let shared = a.chars().filter(|c| match left.iter().position(|x| x == c) {
        Some(at) => {
            left.swap_remove(at);
            true
        }
        None => false,
    });
    shared.count() as f64 / longest as f64
}

/// `scale / (scale + |value − target|)`: 1 on the target, ½ at a distance of `scale`.
pub(crate) fn closeness(value: f64, target: f64, scale: f64) -> f64 {
    scale / (scale + (value - target).abs())
}
