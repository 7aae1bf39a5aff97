/* A push of which a server with little memory refuses a part: refused ADDRESS PROVIDERS. Exits with 0 when
 * what windlass_last_refused() names is what was not applied. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windlass.h>

#include "expect.h"

#define KEYS 200000
#define WIDTH 16
#define EACH 10000

static uint64_t keys[KEYS];
static float values[KEYS * WIDTH];
static windlass_rows refused[KEYS];

/* Keys are asked for in their order. */
static int is_refused(uint64_t key, size_t count)
{
    static size_t at = 0;
    while (at < count && refused[at].last < key)
        at++;
    return at < count && refused[at].first <= key;
}

int main(int argc, char **argv)
{
    windlass_options options;
    windlass_schema schema;
    windlass_client *client;
    windlass_table *table;
    windlass_rows first;
    windlass_status status;
    uint64_t timestamp;
    size_t i, j, count, missing = 0;
    EXPECT(argc == 3);
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.providers = argv[2];
    options.timeout_ms = 60000;
    OK(windlass_connect(argv[1], &options, &client));
    memset(&schema, 0, sizeof schema);
    schema.size = sizeof schema;
    schema.dtype = WINDLASS_DTYPE_F32;
    schema.kind = WINDLASS_KIND_SPARSE;
    schema.width = WIDTH;
    OK(windlass_create_table(client, "rows", &schema, &table));
    for (i = 0; i < KEYS; i++)
        keys[i] = 3 * i;
    for (i = 0; i < KEYS * WIDTH; i++)
        values[i] = 1;
    EXPECT(windlass_last_refused(NULL, 0) == 0);
    status = windlass_push(table, keys, KEYS, values, KEYS * WIDTH, NULL, &timestamp);
    if (status == WINDLASS_STATUS_OK)
        status = windlass_wait(client, timestamp);
    EXPECT(status == WINDLASS_STATUS_NO_MEMORY);
    count = windlass_last_refused(refused, KEYS);
    EXPECT(count > 0 && count <= KEYS);
    /* As much as there is room for, and no more. */
    first.first = first.last = 1;
    EXPECT(windlass_last_refused(NULL, 0) == count && windlass_last_refused(&first, 0) == count);
    EXPECT(first.first == 1 && first.last == 1);
    EXPECT(windlass_last_refused(&first, 1) == count);
    EXPECT(first.first == refused[0].first && first.last == refused[0].last);
    for (i = 0; i < KEYS; i += EACH) {
        OK(windlass_pull(table, keys + i, EACH, values, EACH * WIDTH, NULL));
        for (j = 0; j < EACH; j++) {
            int is_missing = is_refused(keys[i + j], count);
            missing += is_missing;
            EXPECT(values[j * WIDTH] == (is_missing ? 0 : 1));
        }
    }
    EXPECT(missing > 0 && missing < KEYS);
    /* The next failure has nothing to do with it. */
    EXPECT(windlass_wait(client, (uint64_t)1 << 40) == WINDLASS_STATUS_UNKNOWN_TIMESTAMP);
    EXPECT(windlass_last_refused(refused, KEYS) == 0);
    OK(windlass_close_table(table));
    OK(windlass_close(client));
    return 0;
}
