/* A client on both sides of fork(): fork ADDRESS PROVIDERS. The child is told, and neither what it tries
 * nor its closing reaches the parent's connection. Run by tests/tests/c_client.rs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <windlass.h>

#define PUSHES 100

#define EXPECT(condition)                                                              \
    do {                                                                               \
        if (!(condition)) {                                                            \
            fprintf(stderr, "%s:%d: %s; last error: %s\n", __FILE__, __LINE__,         \
                    #condition, windlass_last_error());                                \
            _exit(1);                                                                  \
        }                                                                              \
    } while (0)
#define OK(call) EXPECT((call) == WINDLASS_STATUS_OK)
#define FAILS(call) EXPECT((call) == WINDLASS_STATUS_WRONG_PROCESS)

static const uint64_t key = 7;

static void push(windlass_client *client, windlass_table *table)
{
    float one = 1;
    uint64_t pushed = 0;
    for (int at = 0; at < PUSHES; at++) {
        OK(windlass_push(table, &key, 1, &one, 1, NULL, &pushed));
        OK(windlass_wait(client, pushed));
    }
}

static void open_again(const char *address, const windlass_options *options)
{
    windlass_client *client;
    windlass_table *table;
    OK(windlass_connect(address, options, &client));
    OK(windlass_open_table(client, "forked", &table));
    push(client, table);
    OK(windlass_close_table(table));
    OK(windlass_close(client));
}

int main(int count, char **arguments)
{
    windlass_options options = {.size = sizeof options};
    windlass_schema schema = {.size = sizeof schema, .kind = WINDLASS_KIND_SPARSE, .width = 1, .rule = "add"};
    windlass_client *client;
    windlass_table *table;
    windlass_prepared *prepared;
    windlass_buffer *buffer;
    windlass_pending_pull *pull;
    float value = 1;
    uint64_t pushed, clock;
    int status;
    EXPECT(count == 3);
    options.providers = arguments[2];
    OK(windlass_connect(arguments[1], &options, &client));
    OK(windlass_create_table(client, "forked", &schema, &table));
    OK(windlass_prepare(table, &key, 1, &prepared));
    OK(windlass_allocate_buffer(client, WINDLASS_DTYPE_F32, 4, &buffer));
    OK(windlass_start_pull(table, &key, 1, NULL, &pull));
    push(client, table);
    pid_t child = fork();
    EXPECT(child >= 0);
    if (child == 0) {
        FAILS(windlass_push(table, &key, 1, &value, 1, NULL, &pushed));
        EXPECT(strstr(windlass_last_error(), "connect again") != NULL);
        FAILS(windlass_pull(table, &key, 1, &value, 1, NULL));
        FAILS(windlass_finish_pull(pull, &value, 1));
        FAILS(windlass_push_buffer(table, &key, 1, buffer, 0, NULL, &pushed));
        FAILS(windlass_settle_buffer(buffer));
        FAILS(windlass_push_prepared(prepared, NULL, &pushed));
        FAILS(windlass_wait_all(client));
        FAILS(windlass_poll(client));
        FAILS(windlass_advance_clock(client, NULL));
        FAILS(windlass_clock(client, &clock));
        FAILS(windlass_drop_table(client, "forked"));
        OK(windlass_forget_pull(pull));
        OK(windlass_close_prepared(prepared));
        OK(windlass_close_buffer(buffer));
        OK(windlass_close_table(table));
        OK(windlass_close(client));
        open_again(arguments[1], &options);
        _exit(0);
    }
    push(client, table);
    EXPECT(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    OK(windlass_finish_pull(pull, &value, 1));
    push(client, table);
    OK(windlass_pull(table, &key, 1, &value, 1, NULL));
    EXPECT(value == 4 * PUSHES);
    OK(windlass_close_prepared(prepared));
    OK(windlass_close_buffer(buffer));
    OK(windlass_drop_table(client, "forked"));
    OK(windlass_close_table(table));
    OK(windlass_close(client));
    return 0;
}
