/* Calls every function of the ABI against a server: abi ADDRESS PROVIDERS. Exits with 0 when all is
 * as the header says. Compiled as C99 and as C++11 by tests/tests/c_client.rs. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windlass.h>

#include "expect.h"

#define ROWS 100000
#define WIDTH 8

#define FAILS(status, call) EXPECT((call) == WINDLASS_STATUS_##status)

static windlass_client *client;

static void schema_of(windlass_schema *schema, uint32_t dtype, uint64_t rows, uint32_t width)
{
    memset(schema, 0, sizeof *schema);
    schema->size = sizeof *schema;
    schema->dtype = dtype;
    schema->rows = rows;
    schema->width = width;
    if (rows == 0)
        schema->kind = WINDLASS_KIND_SPARSE;
}

static void pushes_and_pulls(void)
{
    windlass_schema schema;
    windlass_table *table, *sparse;
    windlass_pending_pull *pull;
    uint64_t keys[3] = {1, 5, 9}, timestamp = 0;
    double values[6] = {1, 2, 3, 4, 5, 6}, got[6], pair[2] = {0, 0};
    schema_of(&schema, WINDLASS_DTYPE_F64, 10, 2);
    OK(windlass_create_table(client, "pairs", &schema, &table));
    OK(windlass_push(table, keys, 3, values, 6, NULL, &timestamp));
    EXPECT(timestamp > 0);
    OK(windlass_wait(client, timestamp));
    OK(windlass_push_range(table, 5, 1, values, 2, NULL, NULL));
    OK(windlass_wait_all(client));
    OK(windlass_pull(table, keys, 3, got, 6, NULL));
    EXPECT(got[0] == 1 && got[1] == 2 && got[2] == 4 && got[3] == 6 && got[5] == 6);
    OK(windlass_pull_range(table, 9, 1, pair, 2, NULL));
    EXPECT(pair[0] == 5 && pair[1] == 6);
    /* In place. */
    OK(windlass_push_pull(table, keys, 3, values, values, 6, NULL));
    EXPECT(values[0] == 2 && values[2] == 7 && values[5] == 12);
    OK(windlass_push_pull_range(table, 9, 1, pair, pair, 2, NULL));
    EXPECT(pair[0] == 15 && pair[1] == 18);
    /* Nothing of nothing. */
    OK(windlass_push(table, NULL, 0, NULL, 0, NULL, &timestamp));
    OK(windlass_pull(table, NULL, 0, NULL, 0, NULL));
    /* A bag of none, and one of two keys. */
    uint64_t offsets[3] = {0, 0, 2};
    double pooled[4] = {9, 9, 9, 9};
    OK(windlass_pull_bags(table, keys, 2, offsets, 2, WINDLASS_POOL_SUM, pooled, 4, NULL));
    EXPECT(pooled[0] == 0 && pooled[2] == values[0] + values[2]);
    OK(windlass_pull_bags(table, keys, 2, offsets, 2, WINDLASS_POOL_MEAN, pooled, 4, NULL));
    EXPECT(pooled[1] == 0 && pooled[3] == (values[1] + values[3]) / 2);
    FAILS(INVALID_ARGUMENT, windlass_pull_bags(table, keys, 3, offsets, 2, 0, pooled, 4, NULL));
    FAILS(INVALID_ARGUMENT, windlass_pull_bags(table, keys, 2, offsets, 2, 2, pooled, 4, NULL));

    schema_of(&schema, WINDLASS_DTYPE_F64, 0, 2);
    OK(windlass_create_table(client, "sparse pairs", &schema, &sparse));
    keys[2] = UINT64_MAX;
    OK(windlass_push_pull(sparse, keys, 3, got, values, 6, NULL));
    EXPECT(values[2] == 4 && values[5] == 6);
    windlass_table *normal;
    schema.initializer = "uniform:1,2";
    schema.expiry = "age:120s,rows:100";
    OK(windlass_create_table(client, "uniform pairs", &schema, &normal));
    double first[4];
    OK(windlass_pull(normal, keys, 2, first, 4, NULL));
    EXPECT(first[0] >= 1 && first[3] <= 2 && first[0] != first[1] && first[0] != first[2]);
    windlass_schema told;
    told.size = sizeof told;
    OK(windlass_table_schema(normal, &told));
    EXPECT(strcmp(told.initializer, "uniform:1,2,seed=0") == 0);
    EXPECT(strcmp(told.expiry, "age:2m,rows:100") == 0);
    OK(windlass_set_expiry(client, "uniform pairs", "rows:9"));
    FAILS(INVALID_SCHEMA, windlass_set_expiry(client, "uniform pairs", "rows"));
    FAILS(UNKNOWN_TABLE, windlass_set_expiry(client, "nowhere", "rows:9"));
    EXPECT(windlass_set_expiry(client, "sparse pairs", "rows:9") != WINDLASS_STATUS_OK);
    EXPECT(strstr(windlass_last_error(), "from its creation on") != NULL);
    OK(windlass_close_table(normal));
    OK(windlass_drop_table(client, "uniform pairs"));
    schema.initializer = "uniform:2,1";
    FAILS(INVALID_SCHEMA, windlass_create_table(client, "falling", &schema, &normal));
    schema.initializer = NULL;
    schema.expiry = "age:0s";
    FAILS(INVALID_SCHEMA, windlass_create_table(client, "falling", &schema, &normal));
    schema.expiry = NULL;
    windlass_pull_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    OK(windlass_push(sparse, keys, 3, values, 6, NULL, &options.after));
    OK(windlass_start_pull(sparse, keys, 3, &options, &pull));
    FAILS(WRONG_LENGTH, windlass_finish_pull(pull, got, 5));
    OK(windlass_finish_pull(pull, got, 6));
    EXPECT(got[2] == 8);
    OK(windlass_start_pull_range(table, 0, 5, NULL, &pull));
    OK(windlass_forget_pull(pull));
    OK(windlass_forget_pull(NULL));
    options.from = WINDLASS_PULL_FROM_STRONG;
    OK(windlass_start_pull(sparse, keys, 3, &options, &pull));
    OK(windlass_finish_pull(pull, got, 6));
    EXPECT(got[2] == 8);
    options.from = 3;
    FAILS(INVALID_ARGUMENT, windlass_start_pull(sparse, keys, 3, &options, &pull));
    FAILS(RANGE_OF_SPARSE, windlass_pull_range(sparse, 0, 3, got, 6, NULL));

    OK(windlass_close_table(table));
    OK(windlass_close_table(sparse));
    OK(windlass_close_table(NULL));
}

static void scans(void)
{
    windlass_schema schema;
    windlass_table *table, *dense;
    windlass_scan *scan;
    windlass_scan_options options;
    windlass_scan_batch batch;
    uint64_t keys[3] = {5, 6, UINT64_MAX}, seen = 0;
    float values[3] = {1, 2, 3};
    const char *cursor;
    char kept[100];
    memset(&options, 0, sizeof options);
    memset(&batch, 0, sizeof batch);
    options.size = sizeof options;
    batch.size = sizeof batch;
    schema_of(&schema, WINDLASS_DTYPE_F32, 0, 1);
    schema.kind = WINDLASS_KIND_SPARSE;
    schema.rule = "adagrad:lr=1";
    OK(windlass_create_table(client, "scanned", &schema, &table));
    OK(windlass_begin_scan(table, NULL, NULL, &scan));
    OK(windlass_next_rows(scan, &batch));
    EXPECT(batch.row_count == 0);
    OK(windlass_close_scan(scan));
    OK(windlass_push(table, keys, 3, values, 3, NULL, NULL));
    OK(windlass_wait_all(client));
    options.rows_max = 1;
    options.columns = WINDLASS_SCAN_STATE;
    OK(windlass_begin_scan(table, NULL, &options, &scan));
    for (int at = 0; at < 3; at++) {
        OK(windlass_next_rows(scan, &batch));
        EXPECT(batch.row_count == 1 && batch.state_len == 4 && batch.state_planes == 1);
        EXPECT(batch.row_word == 0);
        for (int key = 0; key < 3; key++)
            if (batch.keys[0] == keys[key]) {
                seen += 1u << key;
                EXPECT(((const float *)batch.state)[0] == values[key] * values[key]);
                EXPECT(((const float *)batch.values)[0] != 0);
            }
        OK(windlass_scan_cursor(scan, &cursor));
        strncpy(kept, cursor, sizeof kept - 1);
        kept[sizeof kept - 1] = 0;
        OK(windlass_close_scan(scan));
        OK(windlass_begin_scan(table, kept, &options, &scan));
    }
    EXPECT(seen == 7);
    OK(windlass_next_rows(scan, &batch));
    EXPECT(batch.row_count == 0);
    OK(windlass_close_scan(scan));
    options.columns = WINDLASS_SCAN_KEYS;
    options.rows_max = 0;
    OK(windlass_begin_scan(table, NULL, &options, &scan));
    OK(windlass_next_rows(scan, &batch));
    EXPECT(batch.row_count > 0 && batch.values == NULL && batch.state == NULL);
    OK(windlass_close_scan(scan));
    options.columns = 3;
    FAILS(INVALID_ARGUMENT, windlass_begin_scan(table, NULL, &options, &scan));
    FAILS(INVALID_ARGUMENT, windlass_begin_scan(table, "1-2-3", NULL, &scan));
    OK(windlass_open_table(client, "rows", &dense));
    FAILS(INVALID_ARGUMENT, windlass_begin_scan(dense, NULL, NULL, &scan));
    OK(windlass_close_table(dense));
    OK(windlass_close_scan(NULL));
    OK(windlass_close_table(table));
    OK(windlass_drop_table(client, "scanned"));
}

static void sparsifiers(void)
{
    windlass_schema schema;
    windlass_table *table;
    windlass_sparsifier *sparsifier, *other;
    uint64_t keys[3] = {9, 3, 5}, kept[2], timestamp = 7, saved;
    float values[6] = {1, 0, 0, 4, 2, 2}, got[6], held[4];
    size_t count;
    schema_of(&schema, WINDLASS_DTYPE_F32, 0, 2);
    schema.kind = WINDLASS_KIND_SPARSE;
    schema.rule = "ftrl:alpha=1,beta=1,l1=0,l2=0";
    OK(windlass_create_table(client, "sparsified", &schema, &table));
    FAILS(INVALID_ARGUMENT, windlass_make_sparsifier(table, "kkt", &sparsifier));
    EXPECT(strstr(windlass_last_error(), "L1 penalty") != NULL);
    FAILS(INVALID_ARGUMENT, windlass_make_sparsifier(table, "bf16", &sparsifier));
    FAILS(INVALID_ARGUMENT, windlass_make_sparsifier(table, NULL, &sparsifier));
    FAILS(INVALID_ARGUMENT, windlass_make_sparsifier(table, "kkt:1", NULL));
    OK(windlass_drop_table(client, "sparsified"));
    OK(windlass_close_table(table));
    schema.rule = NULL;
    OK(windlass_create_table(client, "sparsified", &schema, &table));
    OK(windlass_make_sparsifier(table, "kkt:3", &sparsifier));
    OK(windlass_push_held(sparsifier, NULL, &timestamp));
    EXPECT(timestamp == 0);
    OK(windlass_pull(table, keys, 3, got, 6, NULL));
    OK(windlass_push_chosen(sparsifier, keys, 3, values, got, 6, NULL, &timestamp));
    EXPECT(timestamp > 0);
    OK(windlass_wait(client, timestamp));
    OK(windlass_pull(table, keys, 3, got, 6, NULL));
    EXPECT(got[0] == 0 && got[3] == 4 && got[4] == 0);
    OK(windlass_saved_by(sparsifier, "kkt", &saved));
    EXPECT(saved == 2 * 16);
    FAILS(INVALID_ARGUMENT, windlass_saved_by(sparsifier, "skip", &saved));
    /* Another one goes on where this one ended. */
    OK(windlass_held_rows(sparsifier, &count));
    EXPECT(count == 2);
    FAILS(WRONG_LENGTH, windlass_held(sparsifier, kept, 1, held, 2));
    FAILS(WRONG_LENGTH, windlass_held(sparsifier, kept, 2, held, 3));
    FAILS(INVALID_ARGUMENT, windlass_held(sparsifier, NULL, 2, held, 4));
    OK(windlass_held(sparsifier, kept, 2, held, 4));
    EXPECT(kept[0] == 5 && kept[1] == 9 && held[0] == 2 && held[2] == 1 && held[3] == 0);
    OK(windlass_close_sparsifier(sparsifier));
    OK(windlass_make_sparsifier(table, "top-k:1", &other));
    FAILS(WRONG_LENGTH, windlass_hold(other, kept, 2, held, 3));
    OK(windlass_hold(other, kept, 2, held, 4));
    FAILS(WRONG_LENGTH, windlass_push_chosen(other, keys, 3, values, NULL, 5, NULL, NULL));
    FAILS(RANGE_OF_SPARSE, windlass_push_chosen_range(other, 0, 3, values, NULL, 6, NULL, NULL));
    OK(windlass_push_chosen(other, keys, 1, values, NULL, 2, NULL, NULL));
    OK(windlass_push_held(other, NULL, NULL));
    OK(windlass_wait_all(client));
    OK(windlass_pull(table, keys, 3, got, 6, NULL));
    EXPECT(got[0] == 2 && got[1] == 0 && got[3] == 4 && got[4] == 2 && got[5] == 2);
    OK(windlass_held_rows(other, &count));
    EXPECT(count == 0);
    OK(windlass_held(other, NULL, 0, NULL, 0));
    OK(windlass_close_sparsifier(other));
    OK(windlass_close_sparsifier(NULL));
    OK(windlass_close_table(table));
    OK(windlass_drop_table(client, "sparsified"));
}

static void buffers(void)
{
    windlass_schema schema;
    windlass_table *table;
    windlass_buffer *own, *allocated;
    windlass_prepared *prepared;
    void *place;
    size_t count;
    int32_t is_shared = -1;
    uint64_t timestamp, keys[2] = {3, ROWS - 1};
    size_t all = (size_t)ROWS * WIDTH;
    float *memory = (float *)malloc(all * sizeof(float));
    float *got = (float *)calloc(all, sizeof(float)), row[WIDTH];
    schema_of(&schema, WINDLASS_DTYPE_F32, ROWS, WIDTH);
    OK(windlass_create_table(client, "rows", &schema, &table));

    OK(windlass_register_buffer(client, WINDLASS_DTYPE_F32, memory, all, &own));
    OK(windlass_buffer_is_shared(own, &is_shared));
    printf("a buffer from malloc is %s\n", is_shared ? "read in place" : "copied");
    for (size_t at = 0; at < all; at++)
        memory[at] = (float)(at % 1000);
    OK(windlass_push_buffer_range(table, 0, ROWS, own, 0, NULL, &timestamp));
    OK(windlass_push_buffer_range(table, 0, ROWS / 2, own, 0, NULL, &timestamp));
    OK(windlass_push_buffer(table, keys, 2, own, all - 2 * WIDTH, NULL, &timestamp));
    FAILS(WRONG_LENGTH, windlass_push_buffer(table, keys, 2, own, all - WIDTH, NULL, NULL));
    OK(windlass_settle_buffer(own));
    /* The small push was sent with its values: settling the buffer does not wait for it. */
    OK(windlass_wait_all(client));
    OK(windlass_pull_range(table, 0, ROWS, got, all, NULL));
    EXPECT(got[8] == 16 && got[799] == 1598 && got[all / 2 + 7] == 7);
    EXPECT(got[3 * WIDTH] == 48 + memory[all - 2 * WIDTH]);
    EXPECT(got[all - 1] == 2 * memory[all - 1]);
    FAILS(INVALID_ARGUMENT,
          windlass_register_buffer(client, WINDLASS_DTYPE_F32, (char *)memory + 1, 4, &allocated));

    OK(windlass_allocate_buffer(client, WINDLASS_DTYPE_F32, WIDTH, &allocated));
    OK(windlass_buffer_values(allocated, &place, &count));
    EXPECT(place != NULL && count == WIDTH && *(float *)place == 0);
    for (int at = 0; at < WIDTH; at++)
        ((float *)place)[at] = 0.5f;
    OK(windlass_push_buffer(table, keys, 1, allocated, 0, NULL, NULL));
    OK(windlass_close_buffer(allocated));
    OK(windlass_wait_all(client));
    OK(windlass_pull(table, keys, 1, row, WIDTH, NULL));
    EXPECT(row[0] == got[3 * WIDTH] + 0.5f);
    OK(windlass_allocate_buffer(client, WINDLASS_DTYPE_I8, 1, &allocated));
    FAILS(WRONG_DTYPE, windlass_push_buffer(table, keys, 1, allocated, 0, NULL, NULL));
    OK(windlass_close_buffer(allocated));
    OK(windlass_close_buffer(own));
    OK(windlass_close_buffer(NULL));

    OK(windlass_prepare(table, keys, 2, &prepared));
    OK(windlass_prepared_values(prepared, &place, &count));
    EXPECT(count == 2 * WIDTH);
    for (int at = 0; at < 2 * WIDTH; at++)
        ((float *)place)[at] = 1;
    OK(windlass_push_prepared(prepared, NULL, &timestamp));
    OK(windlass_push_prepared(prepared, NULL, NULL));
    OK(windlass_pull_prepared(prepared, NULL));
    EXPECT(((float *)place)[0] == row[0] + 2);
    OK(windlass_close_prepared(prepared));
    OK(windlass_prepare_range(table, 1, 3, &prepared));
    OK(windlass_prepared_values(prepared, &place, NULL));
    OK(windlass_close_prepared(prepared));
    OK(windlass_close_table(table));
    free(memory);
    free(got);
}

static void mistakes(void)
{
    windlass_schema schema, small;
    windlass_table *table = NULL;
    uint64_t keys[2] = {7, 3};
    float values[3] = {1, 0, 0};
    windlass_client *none = NULL;
    FAILS(INVALID_ARGUMENT, windlass_connect("nowhere", NULL, &none));
    FAILS(INVALID_ARGUMENT, windlass_connect(NULL, NULL, &none));
    FAILS(CONNECT_FAILED, windlass_connect("127.0.0.1:1", NULL, &none));
    EXPECT(none == NULL && strlen(windlass_last_error()) > 20);
    FAILS(INVALID_ARGUMENT, windlass_wait_all(NULL));
    EXPECT(strcmp(windlass_last_error(), "client is NULL") == 0);
    FAILS(UNKNOWN_TABLE, windlass_open_table(client, "none", &table));
    EXPECT(strstr(windlass_last_error(), "none") != NULL);
    schema_of(&schema, WINDLASS_DTYPE_F32, 10, 1);
    schema.not_finite = WINDLASS_NOT_FINITE_REJECT;
    schema.rule = "sgd:speed=1";
    FAILS(INVALID_SCHEMA, windlass_create_table(client, "strict", &schema, &table));
    schema.rule = "adagrad:lr=0.1";
    FAILS(INVALID_ARGUMENT, windlass_create_table(client, "strict", &schema, NULL));
    FAILS(INVALID_ARGUMENT, windlass_create_table(client, "strict", NULL, &table));
    FAILS(INVALID_ARGUMENT, windlass_create_table(client, "\xff", &schema, &table));
    OK(windlass_create_table(client, "strict", &schema, &table));
    keys[1] = 10;
    FAILS(OUT_OF_RANGE, windlass_push(table, keys, 2, values, 2, NULL, NULL));
    FAILS(OUT_OF_RANGE, windlass_pull_range(table, 9, 2, values, 2, NULL));
    FAILS(INVALID_ARGUMENT, windlass_pull_range(table, 2, UINT64_MAX, values, 2, NULL));
    FAILS(WRONG_LENGTH, windlass_push(table, keys, 1, values, 3, NULL, NULL));
    FAILS(INVALID_ARGUMENT, windlass_push(table, NULL, 1, values, 1, NULL, NULL));
    FAILS(INVALID_ARGUMENT, windlass_push(table, keys, 1, NULL, 1, NULL, NULL));
    FAILS(INVALID_ARGUMENT, windlass_push(table, keys, SIZE_MAX, values, 1, NULL, NULL));
    FAILS(INVALID_ARGUMENT, windlass_push(table, keys, 1, values, SIZE_MAX / 2, NULL, NULL));
    FAILS(INVALID_ARGUMENT, windlass_push(table, keys, 1, (char *)values + 1, 1, NULL, NULL));
    FAILS(INVALID_ARGUMENT, windlass_push(NULL, keys, 1, values, 1, NULL, NULL));
    FAILS(UNKNOWN_TIMESTAMP, windlass_wait(client, 1u << 30));
    values[0] /= values[1];
    FAILS(NOT_FINITE, windlass_push(table, keys, 1, values, 1, NULL, NULL));

    memset(&small, 0, sizeof small);
    FAILS(INVALID_ARGUMENT, windlass_table_schema(table, &small));
    small.size = sizeof small;
    OK(windlass_table_schema(table, &small));
    EXPECT(small.rows == 10 && small.width == 1 && small.replicas == 1);
    EXPECT(small.not_finite == WINDLASS_NOT_FINITE_REJECT);
    EXPECT(strncmp(small.rule, "adagrad:", 8) == 0);
    memset(&small, 0, sizeof small);
    small.size = 16;
    OK(windlass_table_schema(table, &small));
    EXPECT(small.size == 16 && small.width == 1 && small.rows == 0);
    schema.rows = 11;
    windlass_table *other = NULL;
    FAILS(TABLE_EXISTS, windlass_create_table(client, "strict", &schema, &other));
    OK(windlass_close_table(table));
    OK(windlass_drop_table(client, "strict"));
    FAILS(UNKNOWN_TABLE, windlass_drop_table(client, "strict"));
}

static void *from_another_thread(void *unused)
{
    (void)unused;
    FAILS(WRONG_THREAD, windlass_wait_all(client));
    EXPECT(strstr(windlass_last_error(), "thread") != NULL);
    FAILS(WRONG_THREAD, windlass_close(client));
    return NULL;
}

static void count_table(void *context, const char *name, const windlass_schema *schema)
{
    EXPECT(strlen(name) > 0 && schema->size == sizeof *schema && schema->width > 0);
    ++*(int *)context;
}

/* Pushes go by the learning rate that was set before them. */
static void hyper_parameters(void) {
    windlass_schema schema;
    windlass_table *table = NULL;
    const float one = 1;
    float value = 0;

    schema_of(&schema, WINDLASS_DTYPE_F32, 10, 1);
    schema.rule = "sgd:lr=0.5";
    OK(windlass_create_table(client, "rated", &schema, &table));
    OK(windlass_set_hyper_parameters(client, "rated", "learning_rate=0.25"));
    OK(windlass_push_range(table, 3, 1, &one, 1, NULL, NULL));
    OK(windlass_wait_all(client));
    OK(windlass_pull_range(table, 3, 1, &value, 1, NULL));
    EXPECT(value == -0.25F);
    EXPECT(windlass_set_hyper_parameters(client, "rated", "speed=1") != WINDLASS_STATUS_OK);
    EXPECT(strstr(windlass_last_error(), "lr, momentum, wd, nesterov") != NULL);
    FAILS(UNKNOWN_TABLE, windlass_set_hyper_parameters(client, "nowhere", "lr=1"));
    FAILS(INVALID_ARGUMENT, windlass_set_hyper_parameters(client, "rated", NULL));
    OK(windlass_close_table(table));
    OK(windlass_drop_table(client, "rated"));
}

/* Rows go, by key and by norm, and come anew. */
static void removals(void) {
    windlass_schema schema;
    windlass_table *table = NULL;
    windlass_table *dense = NULL;
    const uint64_t keys[3] = {UINT64_MAX, 5, 70};
    const uint64_t gone[3] = {5, 6, 5};
    const float values[3] = {3, -0.5F, 0.25F};
    float pulled[3] = {0};
    uint64_t removed = 9;

    schema_of(&schema, WINDLASS_DTYPE_F32, 0, 1);
    OK(windlass_create_table(client, "thinned", &schema, &table));
    OK(windlass_push(table, keys, 3, values, 3, NULL, NULL));
    OK(windlass_wait_all(client));
    OK(windlass_remove_rows(table, gone, 3, &removed));
    EXPECT(removed == 1);
    OK(windlass_remove_rows_below(table, 1, &removed));
    EXPECT(removed == 1);
    OK(windlass_pull(table, keys, 3, pulled, 3, NULL));
    EXPECT(pulled[0] == 3 && pulled[1] == 0 && pulled[2] == 0);
    OK(windlass_push(table, keys + 1, 1, values, 1, NULL, NULL));
    OK(windlass_wait_all(client));
    OK(windlass_pull(table, keys, 3, pulled, 3, NULL));
    EXPECT(pulled[0] == 3 && pulled[1] == 3 && pulled[2] == 0);
    FAILS(INVALID_ARGUMENT, windlass_remove_rows(table, gone, 3, NULL));
    FAILS(INVALID_ARGUMENT, windlass_remove_rows(table, NULL, 3, &removed));
    EXPECT(windlass_remove_rows_below(table, NAN, &removed) != WINDLASS_STATUS_OK);
    schema_of(&schema, WINDLASS_DTYPE_F32, 10, 1);
    OK(windlass_create_table(client, "whole", &schema, &dense));
    EXPECT(windlass_remove_rows(dense, gone, 1, &removed) != WINDLASS_STATUS_OK);
    EXPECT(strstr(windlass_last_error(), "rows of dense tables are not removed") != NULL);
    OK(windlass_close_table(table));
    OK(windlass_close_table(dense));
    OK(windlass_drop_table(client, "thinned"));
    OK(windlass_drop_table(client, "whole"));
}

/* Workers of a table are let apart and held together again. */
static void consistency(void) {
    windlass_schema clocked;
    windlass_table *table = NULL, *free_table = NULL;

    schema_of(&clocked, WINDLASS_DTYPE_F32, 10, 1);
    OK(windlass_create_table(client, "free", &clocked, &free_table));
    clocked.consistency = WINDLASS_CONSISTENCY_SEQUENTIAL;
    OK(windlass_create_table(client, "clocked", &clocked, &table));
    OK(windlass_wait_for_workers(table, 1));
    OK(windlass_set_consistency(client, "clocked", WINDLASS_CONSISTENCY_BOUNDED, 3));
    OK(windlass_set_consistency(client, "clocked", WINDLASS_CONSISTENCY_EVENTUAL, 0));
    OK(windlass_set_consistency(client, "clocked", WINDLASS_CONSISTENCY_SEQUENTIAL, 0));
    FAILS(INVALID_ARGUMENT, windlass_set_consistency(client, "clocked", 7, 0));
    FAILS(UNKNOWN_TABLE, windlass_set_consistency(client, "nowhere", WINDLASS_CONSISTENCY_SEQUENTIAL, 0));
    EXPECT(windlass_set_consistency(client, "free", WINDLASS_CONSISTENCY_SEQUENTIAL, 0) != WINDLASS_STATUS_OK);
    EXPECT(strstr(windlass_last_error(), "from its creation on") != NULL);
    EXPECT(windlass_wait_for_workers(free_table, 1) != WINDLASS_STATUS_OK);
    OK(windlass_close_table(table));
    OK(windlass_close_table(free_table));
    OK(windlass_drop_table(client, "clocked"));
    OK(windlass_drop_table(client, "free"));
}

int main(int argc, char **argv)
{
    windlass_options options;
    windlass_counters counters;
    windlass_table *left;
    const char *transports;
    uint64_t clock, timestamp;
    int tables = 0;
    pthread_t thread;
    EXPECT(argc == 3 && windlass_abi_version() == WINDLASS_ABI_VERSION);
    EXPECT(strlen(windlass_version()) >= 5 && strlen(windlass_last_error()) == 0);
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.providers = argv[2];
    options.timeout_ms = 60000;
    options.has_rank = 1;
    OK(windlass_connect(argv[1], &options, &client));
    OK(windlass_transports(client, &transports));
    printf("%s\n", transports);
    EXPECT(strstr(transports, argv[2]) != NULL);

    pushes_and_pulls();
    buffers();
    scans();
    sparsifiers();
    OK(windlass_advance_clock(client, &timestamp));
    OK(windlass_wait(client, timestamp));
    OK(windlass_clock(client, &clock));
    EXPECT(clock == 1);
    hyper_parameters();
    removals();
    consistency();
    mistakes();
    EXPECT(pthread_create(&thread, NULL, from_another_thread, NULL) == 0);
    pthread_join(thread, NULL);
    EXPECT(strstr(windlass_last_error(), "thread") == NULL);

    OK(windlass_list_tables(client, count_table, &tables));
    EXPECT(tables == 3);
    OK(windlass_poll(client));
    memset(&counters, 0, sizeof counters);
    counters.size = sizeof counters;
    OK(windlass_count(client, &counters));
    EXPECT(counters.pushes > 8 && counters.bytes_pushed > 4 * ROWS * WIDTH);
    OK(windlass_drop_table(client, "rows"));
    OK(windlass_drop_table(client, "pairs"));
    /* Handles may be closed in any order. */
    OK(windlass_open_table(client, "sparse pairs", &left));
    OK(windlass_drop_table(client, "sparse pairs"));
    OK(windlass_close(client));
    OK(windlass_close_table(left));
    OK(windlass_close(NULL));
    return 0;
}
