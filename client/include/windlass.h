/* windlass.h: push gradients to and pull weights from Windlass parameter servers. For C99, C++11.
 *
 * Written by client/c/tests/header.rs from client/c/src/c_abi. Link with -lwindlass.
 *
 * The rules of all functions:
 * - They return a windlass_status: 0 is done, and anything else left a sentence for
 *   windlass_last_error(). After a failure, results are not stored.
 * - A client and everything made with it belong to the thread that connected. On any other thread
 *   calls fail with WINDLASS_STATUS_WRONG_THREAD and do nothing: connect once per thread. Threads
 *   need no lock between them.
 * - They belong to one process, too: in a child made by fork() calls fail with
 *   WINDLASS_STATUS_WRONG_PROCESS and do nothing, closing frees the child's memory only, and the
 *   parent goes on. Connect again in the child. Memory of buffers is shared between both.
 * - Pointers are NULL or valid for as many elements as the count beside them says; nobody writes,
 *   during a call, what the call reads. NULL is an error unless its documentation allows it, or its
 *   count is 0.
 * - Texts are UTF-8 and end with NUL. Keys are aligned to 8 bytes, values to their own size. Counts
 *   of values are in values, not in bytes.
 * - Handles are closed once, in any order, and not used after.
 * - Structs begin with their own size: set it to sizeof, everything else to zero, and then what you
 *   want. A program compiled with an older header works with a newer library, and the other way
 *   round as long as it sets nothing the library does not know.
 * - Nothing is thrown, and no thread is made: a client moves on when one of its functions is called.
 */


#ifndef WINDLASS_H
#define WINDLASS_H

#include <stddef.h>
#include <stdint.h>

/**
 * Version of the ABI the header describes. It goes up when a program compiled against an older
 * header would not work any more; functions, fields at the end of structs and statuses may be
 * added without.
 */
#define WINDLASS_ABI_VERSION 1

/**
 * Pulls read the last replica of each chain: every acknowledged push is there.
 */
#define WINDLASS_PULL_FROM_TAIL 0

/**
 * Pulls read any replica.
 */
#define WINDLASS_PULL_FROM_ANY 1

/**
 * Pulls see every push acknowledged before them, whatever fails; no one-sided reads.
 */
#define WINDLASS_PULL_FROM_STRONG 2

/**
 * Bags are pooled by the sum of their rows.
 */
#define WINDLASS_POOL_SUM 0

/**
 * Bags are pooled by the mean of their rows: of floating-point types only.
 */
#define WINDLASS_POOL_MEAN 1

/**
 * Keys and values of each row.
 */
#define WINDLASS_SCAN_VALUES 0

/**
 * Keys only.
 */
#define WINDLASS_SCAN_KEYS 1

/**
 * Keys, values and the optimiser's state.
 */
#define WINDLASS_SCAN_STATE 2

/**
 * How a call ended. The numbers never change their meaning.
 */
enum windlass_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Done.
     */
    WINDLASS_STATUS_OK = 0,
    /**
     * A NULL, misaligned or meaningless argument; windlass_last_error() names it.
     */
    WINDLASS_STATUS_INVALID_ARGUMENT = 1,
    /**
     * The handle belongs to another thread.
     */
    WINDLASS_STATUS_WRONG_THREAD = 2,
    /**
     * A bug in windlass. The handle may still be closed.
     */
    WINDLASS_STATUS_INTERNAL = 3,
    /**
     * No memory here, or none left at a server.
     */
    WINDLASS_STATUS_NO_MEMORY = 4,
    /**
     * The handle was made by another process, which this one was forked from: connect again here.
     * It may be closed, which the other process does not notice.
     */
    WINDLASS_STATUS_WRONG_PROCESS = 5,
    /**
     * No server answers at the address, or not as a windlass server would.
     */
    WINDLASS_STATUS_CONNECT_FAILED = 10,
    /**
     * No transport works between here and a server; the text gives the reason for each.
     */
    WINDLASS_STATUS_NO_TRANSPORT = 11,
    /**
     * The server refused: a wrong token, a version, a schema that is not valid.
     */
    WINDLASS_STATUS_REFUSED = 12,
    /**
     * The server is gone, or went while it was asked. Requests without an answer may have been
     * applied: connect again.
     */
    WINDLASS_STATUS_SERVER_GONE = 13,
    /**
     * No answer within the client's timeout. The request goes on; of a push that could not be sent as a
     * whole within it, the part that was.
     */
    WINDLASS_STATUS_TIMEOUT = 14,
    /**
     * No live server has the rows, for as long as the client tried. Parts of the request may have
     * been applied.
     */
    WINDLASS_STATUS_UNAVAILABLE = 15,
    /**
     * A server came back without the table's rows, which nothing kept: open the table again to go
     * on with what is there.
     */
    WINDLASS_STATUS_ROWS_LOST = 16,
    /**
     * The push had no answer for so long that servers may have applied it and forgotten that: it is
     * unknown whether it was applied, and it is not sent again.
     */
    WINDLASS_STATUS_SESSION_EXPIRED = 17,
    /**
     * The goes_on of windlass_options ended the wait. What was asked for goes on.
     */
    WINDLASS_STATUS_INTERRUPTED = 18,
    /**
     * There is no such table.
     */
    WINDLASS_STATUS_UNKNOWN_TABLE = 20,
    /**
     * A table of that name has another schema.
     */
    WINDLASS_STATUS_TABLE_EXISTS = 21,
    /**
     * The table holds another dtype.
     */
    WINDLASS_STATUS_WRONG_DTYPE = 22,
    /**
     * The schema is not valid.
     */
    WINDLASS_STATUS_INVALID_SCHEMA = 23,
    /**
     * The number of values is not rows times width.
     */
    WINDLASS_STATUS_WRONG_LENGTH = 30,
    /**
     * A row is past the table's end.
     */
    WINDLASS_STATUS_OUT_OF_RANGE = 33,
    /**
     * A range was asked of a sparse table.
     */
    WINDLASS_STATUS_RANGE_OF_SPARSE = 34,
    /**
     * A value is NaN or infinite, and the table refuses such. Nothing was applied.
     */
    WINDLASS_STATUS_NOT_FINITE = 35,
    /**
     * The timestamp names no request that is still known.
     */
    WINDLASS_STATUS_UNKNOWN_TIMESTAMP = 36,
    /**
     * The values need more of the staging area than one request may take: raise staging_len, or ask for
     * fewer rows at once.
     */
    WINDLASS_STATUS_TOO_LARGE = 37,
    /**
     * The request could not be prepared, for example because memory could not be registered.
     */
    WINDLASS_STATUS_SETUP_FAILED = 38,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum windlass_status windlass_status;
#else
typedef int32_t windlass_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Types of values.
 */
enum windlass_dtype
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * float.
     */
    WINDLASS_DTYPE_F32 = 0,
    /**
     * double.
     */
    WINDLASS_DTYPE_F64 = 1,
    /**
     * IEEE 754 binary16, 2 bytes.
     */
    WINDLASS_DTYPE_F16 = 2,
    /**
     * bfloat16, the upper half of a float, 2 bytes.
     */
    WINDLASS_DTYPE_BF16 = 3,
    /**
     * int8_t.
     */
    WINDLASS_DTYPE_I8 = 4,
    /**
     * int32_t.
     */
    WINDLASS_DTYPE_I32 = 5,
    /**
     * int64_t.
     */
    WINDLASS_DTYPE_I64 = 6,
    /**
     * uint64_t.
     */
    WINDLASS_DTYPE_U64 = 7,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum windlass_dtype windlass_dtype;
#else
typedef uint32_t windlass_dtype;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Kinds of tables.
 */
enum windlass_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Rows 0 to rows - 1, all there from the start, pulled by one-sided reads.
     */
    WINDLASS_KIND_DENSE = 0,
    /**
     * Any 64-bit key; a row is made by the first push to it and reads as zero before.
     */
    WINDLASS_KIND_SPARSE = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum windlass_kind windlass_kind;
#else
typedef uint32_t windlass_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What an acknowledged push has survived.
 */
enum windlass_durability
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * It is in the memory of every live replica.
     */
    WINDLASS_DURABILITY_MEMORY = 0,
    /**
     * As memory, and on disk within durability_interval_ms.
     */
    WINDLASS_DURABILITY_INTERVAL = 1,
    /**
     * It is on disk on every live replica.
     */
    WINDLASS_DURABILITY_SYNC = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum windlass_durability windlass_durability;
#else
typedef uint32_t windlass_durability;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What happens to pushed values that are NaN or infinite.
 */
enum windlass_not_finite
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * They are applied like any other value.
     */
    WINDLASS_NOT_FINITE_ACCEPT = 0,
    /**
     * The whole push is refused. What is looked at is what is pushed: finite values whose sum, or what the
     * rule makes of them, is more than the dtype holds are applied, and make their row infinite.
     */
    WINDLASS_NOT_FINITE_REJECT = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum windlass_not_finite windlass_not_finite;
#else
typedef uint32_t windlass_not_finite;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Which pushes a pull may miss.
 */
enum windlass_consistency
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Whatever has not arrived: asynchronous.
     */
    WINDLASS_CONSISTENCY_EVENTUAL = 0,
    /**
     * Those of the last `staleness` rounds.
     */
    WINDLASS_CONSISTENCY_BOUNDED = 1,
    /**
     * None of the rounds before: bulk synchronous.
     */
    WINDLASS_CONSISTENCY_SEQUENTIAL = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum windlass_consistency windlass_consistency;
#else
typedef uint32_t windlass_consistency;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How pushes of one clock are combined.
 */
enum windlass_aggregation
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Whatever has arrived is summed and applied.
     */
    WINDLASS_AGGREGATION_IMMEDIATE = 0,
    /**
     * Pushes of one worker clock are summed until `quorum` workers contributed, then applied once.
     */
    WINDLASS_AGGREGATION_ROUNDS = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum windlass_aggregation windlass_aggregation;
#else
typedef uint32_t windlass_aggregation;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Values that can be pushed again and again without a copy by the client. Belongs to its client's
 * thread. While a push of them is under way, nobody may write them: windlass_wait() for the push,
 * or windlass_settle_buffer() for all of the buffer's.
 */
typedef struct windlass_buffer windlass_buffer;

/**
 * A connection to a cluster. Belongs to the thread that made it.
 */
typedef struct windlass_client windlass_client;

/**
 * Rows of a table with registered values of their own, pushed from where they are and pulled into
 * the same place: keys are copied and checked once. Belongs to its client's thread.
 */
typedef struct windlass_prepared windlass_prepared;

/**
 * A pull under way. Belongs to its client's thread.
 */
typedef struct windlass_pending_pull windlass_pending_pull;

/**
 * A scan under way. Belongs to its client's thread.
 */
typedef struct windlass_scan windlass_scan;

/**
 * Filters that choose which rows of each push are sent, and the rows that they hold back: those are added to
 * the next push of the same rows, so that every value counts once in the end. Of one table and one worker.
 * Belongs to its client's thread.
 */
typedef struct windlass_sparsifier windlass_sparsifier;

/**
 * A table. Belongs to its client's thread.
 */
typedef struct windlass_table windlass_table;

/**
 * Rows that follow each other, or keys: the first and the last.
 */
typedef struct windlass_rows {
    /**
     * The first.
     */
    uint64_t first;
    /**
     * The last, which is the first where it is one.
     */
    uint64_t last;
} windlass_rows;

/**
 * Options of a connection. Set `size` to sizeof(windlass_options) and everything else to zero for
 * the defaults; NULL in place of the struct does the same.
 */
typedef struct windlass_options {
    /**
     * sizeof(windlass_options).
     */
    size_t size;
    /**
     * What servers ask for when they were started with a token; NULL for none.
     */
    const char *token;
    /**
     * Transports that may be used, in order of preference, such as "shm,tcp"; NULL for
     * "verbs,shm,tcp".
     */
    const char *providers;
    /**
     * How long a request may take, and how long a call waits for servers that say nothing, in
     * milliseconds; 0 for 30,000.
     */
    uint64_t timeout_ms;
    /**
     * How long a wait spins before it sleeps, in microseconds; 0 for 50.
     */
    uint64_t spin_us;
    /**
     * Bytes of the staging area, for values on their way that are not in buffers; 0 for 64 MiB.
     */
    uint64_t staging_len;
    /**
     * Whether this client is a worker of a training job.
     */
    uint32_t has_rank;
    /**
     * Its rank, if so.
     */
    uint32_t rank;
    /**
     * How long requests are tried again while servers fail or restart, in milliseconds; 0 for
     * 30,000, UINT64_MAX for not at all.
     */
    uint64_t retry_for_ms;
    /**
     * Called about 20 times a second while a call waits, on its thread, with `context`: 0 ends the wait
     * with WINDLASS_STATUS_INTERRUPTED. It must return and must not call windlass. NULL for none.
     */
    int32_t (*goes_on)(void *context);
    /**
     * What goes_on is called with. Both stay valid until everything of the client is closed.
     */
    void *context;
} windlass_options;

/**
 * What a table is. Set `size` to sizeof(windlass_schema), width, and rows for a dense table; zero
 * is a sensible default for everything else.
 */
typedef struct windlass_schema {
    /**
     * sizeof(windlass_schema).
     */
    size_t size;
    /**
     * A windlass_dtype.
     */
    uint32_t dtype;
    /**
     * Values per row, from 1.
     */
    uint32_t width;
    /**
     * A windlass_kind.
     */
    uint32_t kind;
    /**
     * Servers that hold each row, from 1; 0 means 1.
     */
    uint32_t replicas;
    /**
     * Rows of a dense table.
     */
    uint64_t rows;
    /**
     * How a push changes a row: "add", "assign", "sgd:lr=0.1,momentum=0.9", "adagrad:lr=0.1",
     * "row-adagrad:lr=0.1", "rmsprop:decay=0.9", "adam:lr=0.001", "ftrl:alpha=0.1,l1=1"; NULL for "add".
     */
    const char *rule;
    /**
     * A windlass_durability.
     */
    uint32_t durability;
    /**
     * Milliseconds, from 1, for WINDLASS_DURABILITY_INTERVAL.
     */
    uint32_t durability_interval_ms;
    /**
     * A windlass_not_finite.
     */
    uint32_t not_finite;
    /**
     * A windlass_consistency.
     */
    uint32_t consistency;
    /**
     * Rounds, for WINDLASS_CONSISTENCY_BOUNDED.
     */
    uint64_t staleness;
    /**
     * A windlass_aggregation.
     */
    uint32_t aggregation;
    /**
     * Workers that close a round, for WINDLASS_AGGREGATION_ROUNDS; 0 for all.
     */
    uint32_t quorum;
    /**
     * Whether a push that is late for its round is added to the next (else dropped).
     */
    uint32_t fold_late;
    /**
     * Zero.
     */
    uint32_t reserved;
    /**
     * What rows of a sparse table begin with, in pulls before and in pushes: "zero", "constant:0.5",
     * "uniform:-0.01,0.01", "normal:0,0.02", "truncated-normal:0,0.02", the last three also with ",seed=7"; NULL
     * for "zero".
     */
    const char *initializer;
    /**
     * Which rows of a sparse table go by themselves: "never"; "age:7d", those that nothing was pushed to for that long (s,
     * m, h or d of service); "rows:1000000", the oldest of more than that; or "age:7d,rows:1000000"; NULL for "never".
     */
    const char *expiry;
} windlass_schema;

/**
 * What a client has counted since it connected.
 */
typedef struct windlass_counters {
    /**
     * sizeof(windlass_counters).
     */
    size_t size;
    /**
     * Pushes made.
     */
    uint64_t pushes;
    /**
     * Pulls made.
     */
    uint64_t pulls;
    /**
     * Bytes of values pushed.
     */
    uint64_t bytes_pushed;
    /**
     * Bytes of values pulled.
     */
    uint64_t bytes_pulled;
    /**
     * Blocks read again because they changed meanwhile.
     */
    uint64_t reads_retried;
    /**
     * Times the client slept in a wait.
     */
    uint64_t sleeps;
    /**
     * Bytes that the filter key-cache kept from being sent.
     */
    uint64_t saved_by_key_cache;
    /**
     * The same for delta-keys.
     */
    uint64_t saved_by_delta_keys;
    /**
     * The same for snappy.
     */
    uint64_t saved_by_snappy;
    /**
     * The same for bf16.
     */
    uint64_t saved_by_bf16;
    /**
     * The same for f16.
     */
    uint64_t saved_by_f16;
    /**
     * The same for fixed:1 to fixed:4.
     */
    uint64_t saved_by_fixed;
} windlass_counters;

/**
 * Options of a push. NULL for the defaults.
 */
typedef struct windlass_push_options {
    /**
     * sizeof(windlass_push_options).
     */
    size_t size;
    /**
     * Start only when the request with this timestamp is done, which the call waits for; 0 for at once.
     */
    uint64_t after;
    /**
     * The worker's clock, if has_clock is not 0; else the client's own.
     */
    uint64_t clock;
    /**
     * Whether `clock` counts.
     */
    uint32_t has_clock;
    /**
     * Acknowledge only what is on disk on every replica, whatever the table says, if not 0.
     */
    uint32_t sync;
    /**
     * Filters that make its messages smaller, such as "delta-keys,bf16,snappy"; NULL for none.
     */
    const char *filters;
} windlass_push_options;

/**
 * Options of a pull. NULL for the defaults.
 */
typedef struct windlass_pull_options {
    /**
     * sizeof(windlass_pull_options).
     */
    size_t size;
    /**
     * Start only when the request with this timestamp is done, which the call waits for; 0 for at once.
     */
    uint64_t after;
    /**
     * Whether rows of a dense range may mix values from before and after an update that is under
     * way. Each value is whole in any case.
     */
    uint32_t relaxed;
    /**
     * Which replicas are read: WINDLASS_PULL_FROM_*; 0 for the tail.
     */
    uint32_t from;
    /**
     * Filters that make the messages of a pull by key smaller, such as "delta-keys,bf16"; NULL for none.
     */
    const char *filters;
} windlass_pull_options;

/**
 * Options of a scan. NULL for the defaults.
 */
typedef struct windlass_scan_options {
    /**
     * sizeof(windlass_scan_options).
     */
    size_t size;
    /**
     * What is wanted of each row: WINDLASS_SCAN_*; 0 for keys and values.
     */
    uint32_t columns;
    /**
     * Most rows of a batch; 0 for as many as make up about 512 KiB.
     */
    uint32_t rows_max;
    /**
     * Which replicas are read: WINDLASS_PULL_FROM_*; 0 for the tail.
     */
    uint32_t from;
    /**
     * Zero.
     */
    uint32_t reserved;
} windlass_scan_options;

/**
 * Rows of a scan. The pointers are valid until the scan's next call.
 */
typedef struct windlass_scan_batch {
    /**
     * sizeof(windlass_scan_batch).
     */
    size_t size;
    /**
     * How many; 0 at the scan's end and nowhere else.
     */
    size_t row_count;
    /**
     * The key of each.
     */
    const uint64_t *keys;
    /**
     * Width values of each, of the table's dtype; NULL unless they were asked for.
     */
    const void *values;
    /**
     * state_len bytes of each; NULL unless they were asked for. First state_planes times width values, double of
     * tables of double, else float; then, if row_word is not 0, the row's word. Rows
     * that are not a multiple of a value's size long leave those behind them misaligned.
     */
    const void *state;
    /**
     * Bytes of a row's state.
     */
    size_t state_len;
    /**
     * State values for each value.
     */
    uint32_t state_planes;
    /**
     * What the rule keeps of a whole row: 0 for nothing, 1 for how often it was updated, a uint32_t, 2 for a number,
     * a float.
     */
    uint32_t row_word;
} windlass_scan_batch;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * What the last call on this thread that failed says: a sentence with the names, rows and bounds
 * that matter. Empty when none has failed. Valid until the next call on this thread; never NULL.
 */
const char *windlass_last_error(void);

/**
 * Which rows or keys of a push were not applied, ascending, after a call on this thread has failed that
 * pushed or waited for it: all others of it were. Returns how many runs of them there are, and stores as
 * many as `capacity` says in `rows`, which may be NULL for 0. 0 where the last call that failed was refused
 * as a whole, or failed in another way: then its status says what holds. Valid as windlass_last_error() is.
 */
size_t windlass_last_refused(struct windlass_rows *rows,
                             size_t capacity);

/**
 * A few words for a status, the same for each of its number. Valid for ever; never NULL.
 */
const char *windlass_status_text(int32_t status);

/**
 * The library's WINDLASS_ABI_VERSION: compare it with the header's when you load at run time.
 */
uint32_t windlass_abi_version(void);

/**
 * The library's version, such as "0.1.0". Valid for ever; never NULL.
 */
const char *windlass_version(void);

/**
 * Connects to the cluster that the server at `address` belongs to: "windlass://HOST:PORT" or
 * "HOST:PORT". `options` may be NULL.
 */
windlass_status windlass_connect(const char *address,
                                 const struct windlass_options *options,
                                 struct windlass_client **client);

/**
 * Closes a client; NULL is allowed. What was made with it may be closed later or before: the
 * connection ends with the last of them.
 */
windlass_status windlass_close(struct windlass_client *client);

/**
 * Which transport carries each server's data, and why better ones do not, a line per server.
 * The text lives as long as the client.
 */
windlass_status windlass_transports(const struct windlass_client *client, const char **text);

/**
 * Calls `each` with every table's name and schema, which live as long as the call. `each` must
 * return, not jump or throw; it may call windlass.
 */
windlass_status windlass_list_tables(const struct windlass_client *client,
                                     void (*each)(void *context,
                                                  const char *name,
                                                  const struct windlass_schema *schema),
                                     void *context);

/**
 * Drops a table and its rows on all servers.
 */
windlass_status windlass_drop_table(const struct windlass_client *client, const char *name);

/**
 * Changes how far the workers of a table may be apart, while they use it: to a windlass_consistency, with
 * `staleness` rounds for WINDLASS_CONSISTENCY_BOUNDED. Workers that see the servers' memory go
 * by it from their next pull on, others within eight rounds. Refused for a table that was created with
 * WINDLASS_CONSISTENCY_EVENTUAL: its workers keep no clocks.
 */
windlass_status windlass_set_consistency(const struct windlass_client *client,
                                         const char *name,
                                         uint32_t consistency,
                                         uint64_t staleness);

/**
 * Changes which rows of a sparse table go by themselves, while it is in use, to a text as in windlass_schema. Refused for
 * a table that was created without an expiry, and for "never".
 */
windlass_status windlass_set_expiry(const struct windlass_client *client,
                                    const char *name,
                                    const char *expiry);

/**
 * Changes hyper-parameters of a table's update rule while the table is in use: `parameters` is "key=value,...", such
 * as "learning_rate=0.01" or "lr=0.01,momentum=0.95"; the others stay. Pushes that were acknowledged before went by the old
 * values, pushes that are sent after this returns go by the new ones. An unknown key or a value out of its range is
 * refused with the list of what there is, and changes nothing.
 */
windlass_status windlass_set_hyper_parameters(const struct windlass_client *client,
                                              const char *name,
                                              const char *parameters);

/**
 * Waits for the request with this timestamp: until a push is applied and acknowledged. The
 * outcomes of the last 1,024 requests are known; of an older one only that it is over.
 */
windlass_status windlass_wait(const struct windlass_client *client, uint64_t timestamp);

/**
 * Waits for all requests made so far; the first failure among the last 1,024 of them.
 */
windlass_status windlass_wait_all(const struct windlass_client *client);

/**
 * Takes in what has arrived without waiting, for trainers with a loop of their own.
 */
windlass_status windlass_poll(const struct windlass_client *client);

/**
 * Ends this worker's round: its clock goes on by one on every table it has opened. `timestamp` may
 * be NULL.
 */
windlass_status windlass_advance_clock(const struct windlass_client *client, uint64_t *timestamp);

/**
 * The worker's clock: rounds it has ended.
 */
windlass_status windlass_clock(const struct windlass_client *client, uint64_t *clock);

/**
 * What the client has counted. Set counters->size first.
 */
windlass_status windlass_count(const struct windlass_client *client,
                               struct windlass_counters *counters);

/**
 * Creates a table, or opens the one of that name and schema.
 */
windlass_status windlass_create_table(const struct windlass_client *client,
                                      const char *name,
                                      const struct windlass_schema *schema,
                                      struct windlass_table **table);

/**
 * Opens a table with the schema it has: see windlass_table_schema().
 */
windlass_status windlass_open_table(const struct windlass_client *client,
                                    const char *name,
                                    struct windlass_table **table);

/**
 * Closes a table's handle; NULL is allowed. The table stays: windlass_drop_table() ends it.
 */
windlass_status windlass_close_table(struct windlass_table *table);

/**
 * A table's schema. Set schema->size first. Its texts live as long as the handle, and are as of when the handle was
 * made: windlass_list_tables() has hyper-parameters that were changed since.
 */
windlass_status windlass_table_schema(const struct windlass_table *table,
                                      struct windlass_schema *schema);

/**
 * Waits until `count` workers, this one included, have opened the table: those that come later start where
 * the others are, and are not waited for before. Its workers have to keep clocks.
 */
windlass_status windlass_wait_for_workers(const struct windlass_table *table,
                                          uint64_t count);

/**
 * Removes the rows of keys of a sparse table, with their optimiser state, at every replica. Keys may come in any
 * order and more than once; one that has no row is passed over. A pull of a removed key brings the table's first
 * values, and a push makes its row anew. Returns once the removal is as safe as the table's durability says; a push
 * that is under way may be applied before or after it. Stores in `removed` how many rows there were; should a server
 * die meanwhile, rows that it had removed already may not be counted.
 */
windlass_status windlass_remove_rows(const struct windlass_table *table,
                                     const uint64_t *keys,
                                     size_t key_count,
                                     uint64_t *removed);

/**
 * Removes the rows of a sparse table whose values have a Euclidean norm below `norm`, as `windlass_remove_rows` does:
 * each row is compared and removed in one step, so that no push is lost.
 */
windlass_status windlass_remove_rows_below(const struct windlass_table *table,
                                           double norm,
                                           uint64_t *removed);

/**
 * Starts a push of rows by key. `keys` may come in any order, and more than once: the values of such a key
 * are summed, or the last count where the rule assigns. `values` has width values for each, in the order of
 * the keys, and is copied before this returns. `timestamp`, which may be NULL, gets
 * what windlass_wait() and `after` take.
 *
 * Each shard gets it in messages of at most 1 MiB of values (256 KiB where devices write values) and
 * 16,384 keys (4,096 in a sparse table), and applies and keeps each whole or not at all: where some are refused,
 * windlass_last_refused() says which rows. Of a push that is not acknowledged when server and client both
 * end, so that nobody sends it again, some messages may be there and others not; of one message some
 * partitions and not others where there are replicas, and in tables of durability interval.
 */
windlass_status windlass_push(const struct windlass_table *table,
                              const uint64_t *keys,
                              size_t key_count,
                              const void *values,
                              size_t value_count,
                              const struct windlass_push_options *options,
                              uint64_t *timestamp);

/**
 * Starts a push of `row_count` rows of a dense table, from `first_row` on. Otherwise as
 * windlass_push().
 */
windlass_status windlass_push_range(const struct windlass_table *table,
                                    uint64_t first_row,
                                    uint64_t row_count,
                                    const void *values,
                                    size_t value_count,
                                    const struct windlass_push_options *options,
                                    uint64_t *timestamp);

/**
 * Pushes rows by key, pulls the same rows once the push is applied, and waits for them. `into` has
 * room for value_count values and may be `values`.
 */
windlass_status windlass_push_pull(const struct windlass_table *table,
                                   const uint64_t *keys,
                                   size_t key_count,
                                   const void *values,
                                   void *into,
                                   size_t value_count,
                                   const struct windlass_push_options *options);

/**
 * Pushes `row_count` rows of a dense table, from `first_row` on, and pulls them. Otherwise as
 * windlass_push_pull().
 */
windlass_status windlass_push_pull_range(const struct windlass_table *table,
                                         uint64_t first_row,
                                         uint64_t row_count,
                                         const void *values,
                                         void *into,
                                         size_t value_count,
                                         const struct windlass_push_options *options);

/**
 * Pulls rows by key and waits for them. `keys` may come in any order, and more than once;
 * `into` has room for value_count values, width for each key.
 */
windlass_status windlass_pull(const struct windlass_table *table,
                              const uint64_t *keys,
                              size_t key_count,
                              void *into,
                              size_t value_count,
                              const struct windlass_pull_options *options);

/**
 * Pulls `row_count` rows of a dense table, from `first_row` on, by one-sided reads. Otherwise as
 * windlass_pull().
 */
windlass_status windlass_pull_range(const struct windlass_table *table,
                                    uint64_t first_row,
                                    uint64_t row_count,
                                    void *into,
                                    size_t value_count,
                                    const struct windlass_pull_options *options);

/**
 * Starts to pull rows by key. The rows come from windlass_finish_pull().
 */
windlass_status windlass_start_pull(const struct windlass_table *table,
                                    const uint64_t *keys,
                                    size_t key_count,
                                    const struct windlass_pull_options *options,
                                    struct windlass_pending_pull **pull);

/**
 * Starts to pull `row_count` rows of a dense table, from `first_row` on.
 */
windlass_status windlass_start_pull_range(const struct windlass_table *table,
                                          uint64_t first_row,
                                          uint64_t row_count,
                                          const struct windlass_pull_options *options,
                                          struct windlass_pending_pull **pull);

/**
 * Waits for a pull's rows and copies them into `into`. The pull is closed, unless an argument was
 * wrong: NULL, another thread's, or value_count not the number of values.
 */
windlass_status windlass_finish_pull(struct windlass_pending_pull *pull,
                                     void *into,
                                     size_t value_count);

/**
 * Pulls bags of rows by key, pools each of them, and waits for that: `into` has room for value_count values, width
 * for each bag. Bag b has the keys from offsets[b] up to, not including, offsets[b + 1]: so there are bag_count + 1
 * `offsets`, which begin at 0, ascend and end at key_count. `pooling` is one of WINDLASS_POOL_*. A bag without keys is all
 * zeros.
 */
windlass_status windlass_pull_bags(const struct windlass_table *table,
                                   const uint64_t *keys,
                                   size_t key_count,
                                   const uint64_t *offsets,
                                   size_t bag_count,
                                   uint32_t pooling,
                                   void *into,
                                   size_t value_count,
                                   const struct windlass_pull_options *options);

/**
 * Closes a pull without waiting for its rows; NULL is allowed.
 */
windlass_status windlass_forget_pull(struct windlass_pending_pull *pull);

/**
 * Allocates `value_count` zeroed values of a windlass_dtype in registered memory, which every
 * transport can read without a copy. windlass_buffer_values() says where they are.
 */
windlass_status windlass_allocate_buffer(const struct windlass_client *client,
                                         uint32_t dtype,
                                         size_t value_count,
                                         struct windlass_buffer **buffer);

/**
 * Registers `value_count` values of a windlass_dtype in memory of your own, for example from
 * malloc(): it stays yours, and has to stay until the buffer is closed.
 *
 * With verbs and tcp, servers read it from where it is; the pages are pinned at the first push
 * over verbs. Shared memory cannot share memory it did not allocate: there each push copies the
 * values once. windlass_buffer_is_shared() tells.
 */
windlass_status windlass_register_buffer(const struct windlass_client *client,
                                         uint32_t dtype,
                                         void *memory,
                                         size_t value_count,
                                         struct windlass_buffer **buffer);

/**
 * Waits for the pushes that read the buffer and closes it; NULL is allowed. With
 * WINDLASS_STATUS_TIMEOUT or _INTERRUPTED a server may still read it: it is not closed and its memory has
 * to stay.
 * Any other failure of a push is windlass_settle_buffer()'s to tell.
 */
windlass_status windlass_close_buffer(struct windlass_buffer *buffer);

/**
 * Where a buffer's values are, and how many. Either place may be NULL. The values live as long as
 * the buffer.
 */
windlass_status windlass_buffer_values(const struct windlass_buffer *buffer,
                                       void **values,
                                       size_t *value_count);

/**
 * Whether servers read the buffer from where it is, so that pushes of it copy nothing: 1 or 0.
 */
windlass_status windlass_buffer_is_shared(const struct windlass_buffer *buffer, int32_t *is_shared);

/**
 * Waits until every push of the buffer is over, so that it may be written; the first failure of
 * those pushes.
 */
windlass_status windlass_settle_buffer(const struct windlass_buffer *buffer);

/**
 * Starts a push of rows by key out of a buffer: width values for each key, from number
 * `first_value` of the buffer on. They must not be written until the push is over.
 */
windlass_status windlass_push_buffer(const struct windlass_table *table,
                                     const uint64_t *keys,
                                     size_t key_count,
                                     const struct windlass_buffer *buffer,
                                     size_t first_value,
                                     const struct windlass_push_options *options,
                                     uint64_t *timestamp);

/**
 * Starts a push of `row_count` rows of a dense table, from `first_row` on, out of a buffer.
 * Otherwise as windlass_push_buffer().
 */
windlass_status windlass_push_buffer_range(const struct windlass_table *table,
                                           uint64_t first_row,
                                           uint64_t row_count,
                                           const struct windlass_buffer *buffer,
                                           size_t first_value,
                                           const struct windlass_push_options *options,
                                           uint64_t *timestamp);

/**
 * Prepares rows by key. `keys` may come in any order, and more than once.
 */
windlass_status windlass_prepare(const struct windlass_table *table,
                                 const uint64_t *keys,
                                 size_t key_count,
                                 struct windlass_prepared **prepared);

/**
 * Prepares `row_count` rows of a dense table, from `first_row` on.
 */
windlass_status windlass_prepare_range(const struct windlass_table *table,
                                       uint64_t first_row,
                                       uint64_t row_count,
                                       struct windlass_prepared **prepared);

/**
 * Waits for the push that still reads the values, and says where they are and how many: width for
 * each row. The place stays the same until the prepared operation is closed. Write the values only
 * after this or a pull, and before the next push.
 */
windlass_status windlass_prepared_values(const struct windlass_prepared *prepared,
                                         void **values,
                                         size_t *value_count);

/**
 * Starts a push of the values, once the push before is over. `timestamp` may be NULL.
 */
windlass_status windlass_push_prepared(const struct windlass_prepared *prepared,
                                       const struct windlass_push_options *options,
                                       uint64_t *timestamp);

/**
 * Pulls the rows over the values, once the push before is over, and waits for them.
 */
windlass_status windlass_pull_prepared(const struct windlass_prepared *prepared,
                                       const struct windlass_pull_options *options);

/**
 * Waits for the last push and closes a prepared operation; NULL is allowed. Its values are gone.
 */
windlass_status windlass_close_prepared(struct windlass_prepared *prepared);

/**
 * Begins to scan a sparse table, or goes on behind `cursor`, a text of windlass_scan_cursor(); NULL to
 * begin. Every row that is there all the time comes exactly once, any other at most once, whatever is pushed
 * meanwhile and whichever servers fail.
 */
windlass_status windlass_begin_scan(const struct windlass_table *table,
                                    const char *cursor,
                                    const struct windlass_scan_options *options,
                                    struct windlass_scan **scan);

/**
 * The next rows. Set batch->size first. batch->row_count is 0 at the end. After a failure the same rows come
 * next.
 */
windlass_status windlass_next_rows(const struct windlass_scan *scan,
                                   struct windlass_scan_batch *batch);

/**
 * How far a scan has come: a text with which another process can go on behind the rows of the last batch.
 * Valid until the scan's next call.
 */
windlass_status windlass_scan_cursor(const struct windlass_scan *scan,
                                     const char **cursor);

/**
 * Closes a scan; NULL is allowed.
 */
windlass_status windlass_close_scan(struct windlass_scan *scan);

/**
 * Makes a sparsifier of a table. `filters` are asked in their order, apart by commas, and a row is sent if all
 * choose it: "significance:T" rows with a value of magnitude T or more; "top-k:K" the K rows of the largest
 * Euclidean norm; "skip:P" each row with probability 1 - P; "kkt" or "kkt:T", for rules with an L1 penalty, rows that
 * are not zero at the servers and those with a value above T in magnitude, or above a twentieth of the penalty.
 * "residuals:bf16" and "residuals:f16" hold what the filter "bf16" or "f16" of pushes cuts off. It holds at most
 * 4,194,304 rows; rows beyond are sent.
 */
windlass_status windlass_make_sparsifier(const struct windlass_table *table,
                                         const char *filters,
                                         struct windlass_sparsifier **sparsifier);

/**
 * Starts a push of those rows by key that the filters choose, and holds the others. As windlass_push(), but that
 * `weights`, which may be NULL, has the rows as they were pulled: value_count values, which only kkt looks at. Where
 * no row is chosen nothing is sent, and `timestamp` gets 0. After a failure of this call nothing was sent, and what
 * was held before still is. A push that fails later takes the rows with it that it sent.
 */
windlass_status windlass_push_chosen(const struct windlass_sparsifier *sparsifier,
                                     const uint64_t *keys,
                                     size_t key_count,
                                     const void *values,
                                     const void *weights,
                                     size_t value_count,
                                     const struct windlass_push_options *options,
                                     uint64_t *timestamp);

/**
 * The same for `row_count` rows of a dense table, from `first_row` on.
 */
windlass_status windlass_push_chosen_range(const struct windlass_sparsifier *sparsifier,
                                           uint64_t first_row,
                                           uint64_t row_count,
                                           const void *values,
                                           const void *weights,
                                           size_t value_count,
                                           const struct windlass_push_options *options,
                                           uint64_t *timestamp);

/**
 * Starts a push of all rows that are held; none is held then. `timestamp` gets 0 where none was held. After a
 * failure of this call they are still held.
 */
windlass_status windlass_push_held(const struct windlass_sparsifier *sparsifier,
                                   const struct windlass_push_options *options,
                                   uint64_t *timestamp);

/**
 * How many rows are held.
 */
windlass_status windlass_held_rows(const struct windlass_sparsifier *sparsifier, size_t *row_count);

/**
 * Copies the rows that are held: their keys, ascending, and width values for each. The counts have to be those
 * of windlass_held_rows(). Give them to windlass_hold() after a restart, and nothing is lost.
 */
windlass_status windlass_held(const struct windlass_sparsifier *sparsifier,
                              uint64_t *keys,
                              size_t key_count,
                              void *values,
                              size_t value_count);

/**
 * Adds rows to those that are held, for instance what windlass_held() gave before a restart.
 */
windlass_status windlass_hold(const struct windlass_sparsifier *sparsifier,
                              const uint64_t *keys,
                              size_t key_count,
                              const void *values,
                              size_t value_count);

/**
 * Bytes of keys and values that the filter of this name, such as "top-k", kept from being sent.
 */
windlass_status windlass_saved_by(const struct windlass_sparsifier *sparsifier,
                                  const char *filter,
                                  uint64_t *bytes);

/**
 * Closes a sparsifier; NULL is allowed. What it holds is forgotten.
 */
windlass_status windlass_close_sparsifier(struct windlass_sparsifier *sparsifier);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* WINDLASS_H */
