//! Connections.

use std::ffi::{CString, c_char, c_void};

use windlass_client::{Client, Timestamp};

use super::{
    arguments::{Handle, SizedStruct, fill, handle, out, set_timestamp, take, text},
    options::{WindlassOptions, client_options},
    schema::{SchemaTexts, WindlassSchema, c_schema, consistency_of, expiry_of},
    status::WindlassStatus,
};
use crate::{
    failure::Failure,
    guard::{Owner, c_text, guard},
};

/// A connection to a cluster. Belongs to the thread that made it.
#[derive(Debug)]
pub struct WindlassClient {
    owner: Owner,
    pub(super) client: Client,
    transports: CString,
}

impl Handle for WindlassClient {
    const NAME: &'static str = "client";

    fn owner(&self) -> Owner {
        self.owner
    }
}

/// What a client has counted since it connected.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct WindlassCounters {
    /// sizeof(windlass_counters).
    pub size: usize,
    /// Pushes made.
    pub pushes: u64,
    /// Pulls made.
    pub pulls: u64,
    /// Bytes of values pushed.
    pub bytes_pushed: u64,
    /// Bytes of values pulled.
    pub bytes_pulled: u64,
    /// Blocks read again because they changed meanwhile.
    pub reads_retried: u64,
    /// Times the client slept in a wait.
    pub sleeps: u64,
    /// Bytes that the filter key-cache kept from being sent.
    pub saved_by_key_cache: u64,
    /// The same for delta-keys.
    pub saved_by_delta_keys: u64,
    /// The same for snappy.
    pub saved_by_snappy: u64,
    /// The same for bf16.
    pub saved_by_bf16: u64,
    /// The same for f16.
    pub saved_by_f16: u64,
    /// The same for fixed:1 to fixed:4.
    pub saved_by_fixed: u64,
}

const _: () = assert!(size_of::<WindlassCounters>() == 104);

// SAFETY: `repr(C)`, begins with `size`, has no padding (104 bytes are the sum of the fields), and
// holds integers only.
unsafe impl SizedStruct for WindlassCounters {
    const NAME: &'static str = "windlass_counters";
}

/// Connects to the cluster that the server at `address` belongs to: "windlass://HOST:PORT" or
/// "HOST:PORT". `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_connect(
    address: *const c_char,
    options: *const WindlassOptions,
    client: *mut *mut WindlassClient,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let place = unsafe { out(client, "client") }?;
        // SAFETY: as above.
        let address = unsafe { text(address, "address") }?;
        // SAFETY: as above.
        let options = unsafe { client_options(options) }?;
        let client = Client::connect_with(address, options)?;
        let transports = c_text(&describe(&client));
        let owner = Owner::current();
        place.set(Box::into_raw(Box::new(WindlassClient { owner, client, transports })));
        Ok(())
    })
}

/// Closes a client; NULL is allowed. What was made with it may be closed later or before: the
/// connection ends with the last of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_close(client: *mut WindlassClient) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        drop(unsafe { take(client) }?);
        Ok(())
    })
}

/// Which transport carries each server's data, and why better ones do not, a line per server.
/// The text lives as long as the client.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_transports(
    client: *const WindlassClient,
    text: *mut *const c_char,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let place = unsafe { out(text, "text") }?;
        // SAFETY: the header's rules on handles.
        place.set(unsafe { handle(client) }?.transports.as_ptr());
        Ok(())
    })
}

/// Calls `each` with every table's name and schema, which live as long as the call. `each` must
/// return, not jump or throw; it may call windlass.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_list_tables(
    client: *const WindlassClient,
    each: Option<
        unsafe extern "C" fn(
            context: *mut c_void,
            name: *const c_char,
            schema: *const WindlassSchema,
        ),
    >,
    context: *mut c_void,
) -> WindlassStatus {
    guard(|| {
        let each = each.ok_or_else(|| Failure::null("each"))?;
        // SAFETY: the header's rules on handles.
        let tables = unsafe { handle(client) }?.client.list_tables()?;
        for table in tables {
            let (name, texts) = (c_text(&table.name), SchemaTexts::of(&table.schema));
            let mut schema = c_schema(&table.schema, &texts);
            schema.size = size_of::<WindlassSchema>();
            // SAFETY: a function of this type, as the caller promises; name and schema are live.
            unsafe { each(context, name.as_ptr(), &raw const schema) };
        }
        Ok(())
    })
}

/// Drops a table and its rows on all servers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_drop_table(
    client: *const WindlassClient,
    name: *const c_char,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let name = unsafe { text(name, "name") }?;
        // SAFETY: the header's rules on handles.
        Ok(unsafe { handle(client) }?.client.drop_table(name)?)
    })
}

/// Changes how far the workers of a table may be apart, while they use it: to a windlass_consistency, with
/// `staleness` rounds for WINDLASS_CONSISTENCY_BOUNDED. Workers that see the servers' memory go
/// by it from their next pull on, others within eight rounds. Refused for a table that was created with
/// WINDLASS_CONSISTENCY_EVENTUAL: its workers keep no clocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_set_consistency(
    client: *const WindlassClient,
    name: *const c_char,
    consistency: u32,
    staleness: u64,
) -> WindlassStatus {
    guard(|| {
        let consistency = consistency_of(consistency, staleness)?;
        // SAFETY: the header's rules on pointers.
        let name = unsafe { text(name, "name") }?;
        // SAFETY: the header's rules on handles.
        unsafe { handle(client) }?.client.set_consistency(name, consistency)?;
        Ok(())
    })
}

/// Changes which rows of a sparse table go by themselves, while it is in use, to a text as in windlass_schema. Refused for
/// a table that was created without an expiry, and for "never".
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_set_expiry(
    client: *const WindlassClient,
    name: *const c_char,
    expiry: *const c_char,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let name = unsafe { text(name, "name") }?;
        // SAFETY: as above.
        let expiry = expiry_of(unsafe { text(expiry, "expiry") }?)?;
        // SAFETY: the header's rules on handles.
        unsafe { handle(client) }?.client.set_expiry(name, expiry)?;
        Ok(())
    })
}

/// Changes hyper-parameters of a table's update rule while the table is in use: `parameters` is "key=value,...", such
/// as "learning_rate=0.01" or "lr=0.01,momentum=0.95"; the others stay. Pushes that were acknowledged before went by the old
/// values, pushes that are sent after this returns go by the new ones. An unknown key or a value out of its range is
/// refused with the list of what there is, and changes nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_set_hyper_parameters(
    client: *const WindlassClient,
    name: *const c_char,
    parameters: *const c_char,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let name = unsafe { text(name, "name") }?;
        // SAFETY: as above.
        let parameters = unsafe { text(parameters, "parameters") }?;
        // SAFETY: the header's rules on handles.
        unsafe { handle(client) }?.client.set_hyper_parameters(name, parameters)?;
        Ok(())
    })
}

/// Waits for the request with this timestamp: until a push is applied and acknowledged. The
/// outcomes of the last 1,024 requests are known; of an older one only that it is over.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_wait(
    client: *const WindlassClient,
    timestamp: u64,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        Ok(unsafe { handle(client) }?.client.wait(Timestamp(timestamp))?)
    })
}

/// Waits for all requests made so far; the first failure among the last 1,024 of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_wait_all(client: *const WindlassClient) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        Ok(unsafe { handle(client) }?.client.wait_all()?)
    })
}

/// Takes in what has arrived without waiting, for trainers with a loop of their own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_poll(client: *const WindlassClient) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        unsafe { handle(client) }?.client.poll();
        Ok(())
    })
}

/// Ends this worker's round: its clock goes on by one on every table it has opened. `timestamp` may
/// be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_advance_clock(
    client: *const WindlassClient,
    timestamp: *mut u64,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        let advanced = unsafe { handle(client) }?.client.advance_clock()?;
        // SAFETY: the header's rules on pointers.
        unsafe { set_timestamp(timestamp, advanced) }
    })
}

/// The worker's clock: rounds it has ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_clock(
    client: *const WindlassClient,
    clock: *mut u64,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let place = unsafe { out(clock, "clock") }?;
        // SAFETY: the header's rules on handles.
        place.set(unsafe { handle(client) }?.client.clock().0);
        Ok(())
    })
}

/// What the client has counted. Set counters->size first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_count(
    client: *const WindlassClient,
    counters: *mut WindlassCounters,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        let counted = unsafe { handle(client) }?.client.counters();
        let fields = WindlassCounters {
            size: 0,
            pushes: counted.pushes,
            pulls: counted.pulls,
            bytes_pushed: counted.bytes_pushed,
            bytes_pulled: counted.bytes_pulled,
            reads_retried: counted.reads_retried,
            sleeps: counted.sleeps,
            saved_by_key_cache: counted.saved.key_cache,
            saved_by_delta_keys: counted.saved.delta_keys,
            saved_by_snappy: counted.saved.snappy,
            saved_by_bf16: counted.saved.bf16,
            saved_by_f16: counted.saved.f16,
            saved_by_fixed: counted.saved.fixed,
        };
        // SAFETY: the header's rules on pointers.
        unsafe { fill(counters, &fields) }
    })
}

fn describe(client: &Client) -> String {
    let mut lines = Vec::new();
    for (server, provider, notes) in client.providers() {
        let reasons =
            if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) };
        lines.push(format!("server {server}: {}{reasons}", provider.name()));
    }
    lines.join("\n")
}
