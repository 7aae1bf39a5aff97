//! Options of connections, pushes and pulls.

use std::{
    ffi::{c_char, c_void},
    time::Duration,
};

use windlass_client::{
    ClientOptions, FilterStack, Provider, PullFrom, PullOptions, PushOptions, StackError,
    Timestamp, Watch, WorkerClock, WorkerRank,
};

use super::arguments::{SizedStruct, optional_text, sized};
use crate::failure::Failure;

/// Options of a connection. Set `size` to sizeof(windlass_options) and everything else to zero for
/// the defaults; NULL in place of the struct does the same.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WindlassOptions {
    /// sizeof(windlass_options).
    pub size: usize,
    /// What servers ask for when they were started with a token; NULL for none.
    pub token: *const c_char,
    /// Transports that may be used, in order of preference, such as "shm,tcp"; NULL for
    /// "verbs,shm,tcp".
    pub providers: *const c_char,
    /// How long a request may take, and how long a call waits for servers that say nothing, in
    /// milliseconds; 0 for 30,000.
    pub timeout_ms: u64,
    /// How long a wait spins before it sleeps, in microseconds; 0 for 50.
    pub spin_us: u64,
    /// Bytes of the staging area, for values on their way that are not in buffers; 0 for 64 MiB.
    pub staging_len: u64,
    /// Whether this client is a worker of a training job.
    pub has_rank: u32,
    /// Its rank, if so.
    pub rank: u32,
    /// How long requests are tried again while servers fail or restart, in milliseconds; 0 for
    /// 30,000, UINT64_MAX for not at all.
    pub retry_for_ms: u64,
    /// Called about 20 times a second while a call waits, on its thread, with `context`: 0 ends the wait
    /// with WINDLASS_STATUS_INTERRUPTED. It must return and must not call windlass. NULL for none.
    pub goes_on: Option<unsafe extern "C" fn(context: *mut c_void) -> i32>,
    /// What goes_on is called with. Both stay valid until everything of the client is closed.
    pub context: *mut c_void,
}

/// A function of the caller's, and what it wants to know.
struct Caller {
    goes_on: unsafe extern "C" fn(context: *mut c_void) -> i32,
    context: *mut c_void,
}

// SAFETY: a client, and so its watch, is used on the thread that connected only.
unsafe impl Send for Caller {}
// SAFETY: as above.
unsafe impl Sync for Caller {}

impl Caller {
    fn goes_on(&self) -> bool {
        // SAFETY: the options' documentation asks for a function and a context that stay valid.
        unsafe { (self.goes_on)(self.context) != 0 }
    }
}

/// Options of a push. NULL for the defaults.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WindlassPushOptions {
    /// sizeof(windlass_push_options).
    pub size: usize,
    /// Start only when the request with this timestamp is done, which the call waits for; 0 for at once.
    pub after: u64,
    /// The worker's clock, if has_clock is not 0; else the client's own.
    pub clock: u64,
    /// Whether `clock` counts.
    pub has_clock: u32,
    /// Acknowledge only what is on disk on every replica, whatever the table says, if not 0.
    pub sync: u32,
    /// Filters that make its messages smaller, such as "delta-keys,bf16,snappy"; NULL for none.
    pub filters: *const c_char,
}

/// Pulls read the last replica of each chain: every acknowledged push is there.
pub const WINDLASS_PULL_FROM_TAIL: u32 = 0;
/// Pulls read any replica.
pub const WINDLASS_PULL_FROM_ANY: u32 = 1;
/// Pulls see every push acknowledged before them, whatever fails; no one-sided reads.
pub const WINDLASS_PULL_FROM_STRONG: u32 = 2;

/// Options of a pull. NULL for the defaults.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WindlassPullOptions {
    /// sizeof(windlass_pull_options).
    pub size: usize,
    /// Start only when the request with this timestamp is done, which the call waits for; 0 for at once.
    pub after: u64,
    /// Whether rows of a dense range may mix values from before and after an update that is under
    /// way. Each value is whole in any case.
    pub relaxed: u32,
    /// Which replicas are read: WINDLASS_PULL_FROM_*; 0 for the tail.
    pub from: u32,
    /// Filters that make the messages of a pull by key smaller, such as "delta-keys,bf16"; NULL for none.
    pub filters: *const c_char,
}

const _: () = assert!(size_of::<WindlassOptions>() == 80);
const _: () = assert!(size_of::<WindlassPushOptions>() == 40);
const _: () = assert!(size_of::<WindlassPullOptions>() == 32);

// SAFETY: `repr(C)`, begins with `size`, has no padding (80 bytes are the sum of the fields), and
// holds integers and pointers only, those to functions as the caller's to be NULL or right.
unsafe impl SizedStruct for WindlassOptions {
    const NAME: &'static str = "windlass_options";
}

// SAFETY: as above, with 40 bytes.
unsafe impl SizedStruct for WindlassPushOptions {
    const NAME: &'static str = "windlass_push_options";
}

// SAFETY: as above, with 32 bytes.
unsafe impl SizedStruct for WindlassPullOptions {
    const NAME: &'static str = "windlass_pull_options";
}

impl Default for WindlassPushOptions {
    fn default() -> Self {
        Self { size: 0, after: 0, clock: 0, has_clock: 0, sync: 0, filters: std::ptr::null() }
    }
}

impl Default for WindlassPullOptions {
    fn default() -> Self {
        Self { size: 0, after: 0, relaxed: 0, from: 0, filters: std::ptr::null() }
    }
}

impl Default for WindlassOptions {
    fn default() -> Self {
        Self {
            size: 0,
            token: std::ptr::null(),
            providers: std::ptr::null(),
            timeout_ms: 0,
            spin_us: 0,
            staging_len: 0,
            has_rank: 0,
            rank: 0,
            retry_for_ms: 0,
            goes_on: None,
            context: std::ptr::null_mut(),
        }
    }
}

/// What C means by its options.
///
/// # Safety
/// `given` is NULL or as its documentation says.
pub(super) unsafe fn client_options(
    given: *const WindlassOptions,
) -> Result<ClientOptions, Failure> {
    // SAFETY: the caller's promise is the same.
    let given = unsafe { sized(given) }?;
    let mut options = ClientOptions::default();
    // SAFETY: the struct's documentation asks for NULL or a text.
    let token = unsafe { optional_text(given.token, "token") }?;
    options.token = token.map(str::to_owned);
    // SAFETY: as above.
    if let Some(names) = unsafe { optional_text(given.providers, "providers") }? {
        options.providers = names.split(',').map(provider).collect::<Result<_, _>>()?;
    }
    if given.timeout_ms != 0 {
        options.timeout = Duration::from_millis(given.timeout_ms);
    }
    match given.retry_for_ms {
        0 => {}
        u64::MAX => options.retry_for = Duration::ZERO,
        retry_for_ms => options.retry_for = Duration::from_millis(retry_for_ms),
    }
    if given.spin_us != 0 {
        options.spin = Duration::from_micros(given.spin_us);
    }
    if given.staging_len != 0 {
        options.staging_len = usize::try_from(given.staging_len)
            .map_err(|_| Failure::argument("staging_len is more than memory can hold"))?;
    }
    options.watch = given.goes_on.map(|goes_on| {
        let caller = Caller { goes_on, context: given.context };
        Watch::new(move || caller.goes_on())
    });
    options.rank = (given.has_rank != 0).then_some(WorkerRank(given.rank));
    Ok(options)
}

/// # Safety
/// `given` is NULL or as its documentation says.
pub(super) unsafe fn push_options(
    given: *const WindlassPushOptions,
) -> Result<PushOptions, Failure> {
    // SAFETY: the caller's promise is the same.
    let given = unsafe { sized(given) }?;
    Ok(PushOptions {
        clock: (given.has_clock != 0).then_some(WorkerClock(given.clock)),
        sync: given.sync != 0,
        after: after(given.after),
        // SAFETY: the caller's promise.
        filters: unsafe { filters(given.filters) }?,
    })
}

/// # Safety
/// `given` is NULL or as its documentation says.
pub(super) unsafe fn pull_options(
    given: *const WindlassPullOptions,
) -> Result<PullOptions, Failure> {
    // SAFETY: the caller's promise is the same.
    let given = unsafe { sized(given) }?;
    let from = pull_from(given.from)?;
    // SAFETY: the caller's promise.
    let filters = unsafe { filters(given.filters) }?;
    Ok(PullOptions { after: after(given.after), relaxed: given.relaxed != 0, filters, from })
}

/// Which replicas are read.
pub(super) fn pull_from(number: u32) -> Result<PullFrom, Failure> {
    match number {
        WINDLASS_PULL_FROM_TAIL => Ok(PullFrom::Tail),
        WINDLASS_PULL_FROM_ANY => Ok(PullFrom::Any),
        WINDLASS_PULL_FROM_STRONG => Ok(PullFrom::Strong),
        other => {
            let text = format!("{other} is no WINDLASS_PULL_FROM_*: use 0, 1 or 2");
            Err(Failure::argument(text))
        }
    }
}

/// # Safety
/// `text` is NULL or a text.
unsafe fn filters(text: *const c_char) -> Result<FilterStack, Failure> {
    // SAFETY: the caller's promise.
    let text = unsafe { optional_text(text, "filters") }?;
    text.map_or(Ok(FilterStack::default()), |text| {
        text.parse().map_err(|error: StackError| Failure::argument(error.to_string()))
    })
}

fn after(timestamp: u64) -> Option<Timestamp> {
    (timestamp != 0).then_some(Timestamp(timestamp))
}

fn provider(name: &str) -> Result<Provider, Failure> {
    let name = name.trim();
    Provider::ALL.into_iter().find(|provider| provider.name() == name).ok_or_else(|| {
        Failure::argument(format!("unknown provider {name:?}: use verbs, shm or tcp"))
    })
}
