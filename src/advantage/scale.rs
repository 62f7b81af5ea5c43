//! Advantages over their root mean square, so that rules of different units can be compared.

use crate::config::ScaleAdvantages;

/// Divides the advantages of each group, or of all groups together, by their root mean square; zeros stay zeros.
pub fn apply(scale: ScaleAdvantages, groups: &mut [Vec<f64>]) {
    match scale {
        ScaleAdvantages::None => {}
        ScaleAdvantages::Group => groups.iter_mut().for_each(|g| divide(std::slice::from_mut(g))),
        ScaleAdvantages::Batch => divide(groups),
    }
}

/// Squares count from the largest advantage, so that none overflows or vanishes.
fn divide(groups: &mut [Vec<f64>]) {
    let peak = groups.iter().flatten().fold(0.0, |a: f64, b| a.max(b.abs()));
    if peak == 0.0 {
        return;
    }
    let n = groups.iter().map(Vec::len).sum::<usize>() as f64;
    let squares: f64 = groups.iter().flatten().map(|a| (a / peak) * (a / peak)).sum();
    let share = libm::sqrt(squares / n);
    let all = groups.iter_mut().flatten();
    all.for_each(|a| *a = *a / peak / share);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(scale: ScaleAdvantages, groups: &[&[f64]]) -> Vec<Vec<f64>> {
        let mut groups: Vec<Vec<f64>> = groups.iter().map(|g| g.to_vec()).collect();
        apply(scale, &mut groups);
        groups
    }

    #[test]
    fn groups_or_the_batch_get_a_mean_square_of_one() {
        let groups: [&[f64]; 3] = [&[3.0, -4.0], &[0.0, 0.0, 0.0], &[1e-200, -1e-200]];
        assert_eq!(scaled(ScaleAdvantages::None, &groups), groups);
        let own = scaled(ScaleAdvantages::Group, &groups);
        let rms = 12.5f64.sqrt();
        assert!((own[0][0] - 3.0 / rms).abs() < 1e-15 && (own[0][1] + 4.0 / rms).abs() < 1e-15);
        assert_eq!(&own[1..], [vec![0.0; 3], vec![1.0, -1.0]]);
        // 25 over all 7 advantages.
        let all = scaled(ScaleAdvantages::Batch, &groups);
        assert!((all[0][0] - 3.0 / (25.0f64 / 7.0).sqrt()).abs() < 1e-15);
        assert_eq!(all[1], [0.0; 3]);
        assert_eq!(scaled(ScaleAdvantages::Batch, &groups[1..2]), groups[1..2]);
        let huge = scaled(ScaleAdvantages::Group, &[&[1e300, -1e300]]);
        assert_eq!(huge, [[1.0, -1.0]]);
    }
}
