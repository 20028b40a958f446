//! From a model's token vectors to one vector per text: the mean over real tokens, brought to length 1. Pure arithmetic.

/// The mean of the token vectors that `mask` counts, scaled to unit length. `tokens` holds `mask.len()` vectors one after another.
/// Without any counted token it is all zeros.
pub(crate) fn mean_unit(tokens: &[f32], mask: &[i64], dimensions: usize) -> Vec<f32> {
    let mut sum = vec![0f32; dimensions];
    for (vector, _) in tokens
        .chunks_exact(dimensions)
        .zip(mask)
        .filter(|(_, counted)| **counted != 0)
    {
        for (s, v) in sum.iter_mut().zip(vector) {
            *s += v;
        }
    }
    // The number of tokens would cancel out in the division by the length.
    let length = sum.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        sum.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_left_out_and_the_length_is_one() {
        let tokens = [3.0, 0.0, 3.0, 8.0, 100.0, -100.0];
        assert_eq!(mean_unit(&tokens, &[1, 1, 0], 2), [0.6, 0.8]);
    }

    #[test]
    fn without_tokens_it_is_zero_and_not_nan() {
        assert_eq!(mean_unit(&[1.0, 2.0], &[0], 2), [0.0, 0.0]);
        assert_eq!(mean_unit(&[], &[], 2), [0.0, 0.0]);
    }
}
