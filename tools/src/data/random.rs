//! xoshiro256** (Blackman and Vigna 2018) seeded by SplitMix64: a generator of our own, so that one
//! seed writes the same file on every machine and with every release.

/// A pseudo-random generator; equal seeds and streams give equal numbers.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: [u64; 4],
}

impl Random {
    /// Streams of one seed are independent of each other.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut seeder = mix(seed).wrapping_add(mix(stream ^ 0x5851_f42d_4c95_7f2d));
        let state = std::array::from_fn(|_| {
            seeder = seeder.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(seeder)
        });
        Self { state }
    }

    pub(super) fn next_u64(&mut self) -> u64 {
        let result = self.state[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = self.state[1] << 17;
        self.state[2] ^= self.state[0];
        self.state[3] ^= self.state[1];
        self.state[1] ^= self.state[2];
        self.state[0] ^= self.state[3];
        self.state[2] ^= shifted;
        self.state[3] = self.state[3].rotate_left(45);
        result
    }

    /// Uniform in `0..1`, with 53 random bits.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// Uniform in `0..count`.
    fn below(&mut self, count: u64) -> u64 {
        // Of 64 random bits; the bias of 2^-32 at most shows in nothing.
        let scaled = (u128::from(self.next_u64()) * u128::from(count)) >> 64;
        u64::try_from(scaled).expect("less than the count")
    }

    /// Standard normal, by Box and Muller.
    pub(super) fn normal(&mut self) -> f64 {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.unit()));
        radius * libm::cos(std::f64::consts::TAU * self.unit())
    }
}

/// The numbers `0..count` in an order that depends on seed and stream only (Fisher and Yates).
///
/// Panics when `count` is 2^32 or more.
#[must_use]
pub fn shuffle(count: usize, seed: u64, stream: u64) -> Vec<u32> {
    let count = u32::try_from(count).expect("fewer than 2^32 things are shuffled");
    let mut order: Vec<u32> = (0..count).collect();
    let mut random = Random::new(seed, stream);
    for last in (1..order.len()).rev() {
        let place = random.below(last as u64 + 1);
        order.swap(last, usize::try_from(place).unwrap_or(last));
    }
    order
}

/// One of the numbers `0..count`, which depends on seed and stream only.
#[must_use]
pub fn draw(count: u64, seed: u64, stream: u64) -> u64 {
    Random::new(seed, stream).below(count)
}

/// The finaliser of SplitMix64: a bijection that spreads every input bit.
pub(super) const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Ranks `0..count` with probability falling as a power of the rank.
#[derive(Clone, Copy, Debug)]
pub(super) struct PowerLaw {
    count: f64,
    power: f64,
    scale: f64,
}

impl PowerLaw {
    /// Rank r has a probability near `(r + 1)^-exponent`. `exponent` is above 0 and not 1; `count`
    /// is at least 1.
    pub(crate) fn new(count: f64, exponent: f64) -> Self {
        assert!(count >= 1.0);
        assert!(exponent > 0.0 && (exponent - 1.0).abs() > 1e-6);
        let power = 1.0 - exponent;
        Self { count, power, scale: libm::pow(count + 1.0, power) - 1.0 }
    }

    /// Draws a rank by inverting the distribution function of the continuous law on `1..count + 1`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 <= rank < count"
    )]
    pub(super) fn sample(&self, random: &mut Random) -> u64 {
        let position = libm::pow(1.0 + self.scale * random.unit(), 1.0 / self.power);
        (position - 1.0).clamp(0.0, self.count - 1.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_numbers() {
        let draw = |seed, stream| {
            let mut random = Random::new(seed, stream);
            [random.next_u64(), random.next_u64(), random.next_u64()]
        };
        assert_eq!(draw(1, 0), draw(1, 0));
        assert_ne!(draw(1, 0), draw(2, 0));
        assert_ne!(draw(1, 0), draw(1, 1));
    }

    #[test]
    fn shuffles_are_permutations() {
        let order = shuffle(100, 1, 2);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_eq!(order, shuffle(100, 1, 2));
        assert_ne!(order, shuffle(100, 1, 3));
        assert!(shuffle(0, 1, 1).is_empty());
    }

    #[test]
    fn moments_are_as_expected() {
        let mut random = Random::new(7, 0);
        let count = 100_000;
        let (mut sum, mut squares, mut units) = (0.0, 0.0, 0.0);
        for _ in 0..count {
            let value = random.normal();
            sum += value;
            squares += value * value;
            let unit = random.unit();
            assert!((0.0..1.0).contains(&unit));
            units += unit;
        }
        let count = f64::from(count);
        assert!((sum / count).abs() < 0.02);
        assert!((squares / count - 1.0).abs() < 0.02);
        assert!((units / count - 0.5).abs() < 0.01);
    }

    #[test]
    fn power_law_falls_as_it_says() {
        let mut random = Random::new(3, 0);
        let law = PowerLaw::new(1000.0, 1.2);
        let mut counts = [0_u32; 1000];
        for _ in 0..200_000 {
            counts[usize::try_from(law.sample(&mut random)).unwrap()] += 1;
        }
        let head: u32 = counts[..10].iter().sum();
        let tail: u32 = counts[990..].iter().sum();
        assert!(counts[0] > counts[1] && counts[1] > counts[3]);
        assert!(head > 50 * tail.max(1), "{head} {tail}");
        assert!(counts[500..].iter().sum::<u32>() > 0);
    }
}
