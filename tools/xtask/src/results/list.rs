//! What is measured: areas, and the benches of each. Add a line here, then run `cargo xtask results --only AREA`.

/// One table of the results.
#[derive(Debug)]
pub(super) struct AreaPlan {
    /// As `--only` and the markers in the page name it.
    pub(super) name: &'static str,
    pub(super) benches: &'static [Bench],
}

/// One line of a table: a run of `windlass bench`.
#[derive(Debug)]
pub(super) struct Bench {
    /// What a reader calls it.
    pub(super) title: &'static str,
    /// Arguments of `windlass bench`, without those that all have.
    arguments: &'static str,
    /// What the table shows.
    pub(super) shows: Shows,
    /// The bound that the ratio to the limit is to keep.
    pub(super) wanted: Option<Wanted>,
}

/// Which figure of a bench a table shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shows {
    /// Median latency in microseconds.
    Latency,
    /// Bytes of values per second.
    Bytes,
    /// Rows per second.
    Rows,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wanted {
    AtMost(f64),
    AtLeast(f64),
}

impl Bench {
    /// The arguments as one line, as a user would type them.
    pub(super) fn command(&self) -> String {
        format!("bench {} --rounds 6 --slice-ms 100 --json", self.arguments)
    }
}

const fn latency(title: &'static str, arguments: &'static str, at_most: f64) -> Bench {
    Bench { title, arguments, shows: Shows::Latency, wanted: Some(Wanted::AtMost(at_most)) }
}

const fn bytes(title: &'static str, arguments: &'static str, at_least: f64) -> Bench {
    Bench { title, arguments, shows: Shows::Bytes, wanted: Some(Wanted::AtLeast(at_least)) }
}

const fn rows(title: &'static str, arguments: &'static str, at_least: f64) -> Bench {
    Bench { title, arguments, shows: Shows::Rows, wanted: Some(Wanted::AtLeast(at_least)) }
}

/// A bench that has no bound of its own.
const fn unbounded(title: &'static str, arguments: &'static str, shows: Shows) -> Bench {
    Bench { title, arguments, shows, wanted: None }
}

pub(super) const AREAS: &[AreaPlan] = &[
    AreaPlan {
        name: "shm",
        benches: &[
            latency("push of one row", "push --transport shm", 4.0),
            unbounded("pull of one row", "pull --transport shm", Shows::Latency),
            bytes(
                "push of 500 rows x 512 B, 4 in flight",
                "push --transport shm --rows 500 --width 128 --window 4",
                0.6,
            ),
            bytes(
                "dense push of 64 MiB, 2 in flight",
                "push --transport shm --rows 131072 --width 128 --window 2",
                0.8,
            ),
            bytes("dense pull of 64 MiB", "pull --transport shm --rows 131072 --width 128", 0.9),
        ],
    },
    AreaPlan {
        name: "keys",
        benches: &[
            unbounded(
                "push of 500 neighbouring rows x 512 B, 4 in flight",
                "push --transport shm --rows 500 --width 128 --window 4 --keys --neighbours",
                Shows::Bytes,
            ),
            unbounded(
                "pull of 500 neighbouring rows x 512 B",
                "pull --transport shm --rows 500 --width 128 --keys --neighbours",
                Shows::Latency,
            ),
            rows(
                "pull of 4,096 of 1 million dense rows x 64 B",
                "pull --transport shm --rows 4096 --width 16 --keys --table-rows 1000000",
                0.6,
            ),
            rows(
                "pull of 4,096 of 1 million sparse rows x 64 B",
                "pull --transport shm --rows 4096 --width 16 --sparse --table-rows 1000000",
                0.35,
            ),
        ],
    },
    AreaPlan {
        name: "tcp",
        benches: &[
            latency("push of one row", "push --transport tcp", 1.5),
            unbounded("pull of one row", "pull --transport tcp", Shows::Latency),
            bytes(
                "dense push of 4 MiB, 2 in flight",
                "push --transport tcp --rows 8192 --width 128 --window 2",
                0.9,
            ),
            bytes(
                "dense pull of 4 MiB, 2 in flight",
                "pull --transport tcp --rows 8192 --width 128 --window 2",
                0.9,
            ),
        ],
    },
];
