/* Trains logistic regression on generated data against a Windlass server, and prints its loss.
 *
 *   cc hello.c -I../include -L../../target/dist -lwindlass -lm -o hello
 *   windlass serve --listen 127.0.0.1:7700 &
 *   ./hello 127.0.0.1:7700
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <windlass.h>

enum { FEATURES = 32, EXAMPLES = 4096, BATCH = 64, EPOCHS = 8 };

static float inputs[EXAMPLES][FEATURES], labels[EXAMPLES];

static void check(windlass_status status, const char *what)
{
    if (status != WINDLASS_STATUS_OK) {
        fprintf(stderr, "%s: %s: %s\n", what, windlass_status_text(status), windlass_last_error());
        exit(1);
    }
}

static double uniform(void)
{
    static uint64_t state = 42;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 11) / 9007199254740992.0;
}

/* Examples of a true model whose weights go from -3 to 3. */
static void generate(void)
{
    for (int example = 0; example < EXAMPLES; example++) {
        double sum = 0;
        for (int feature = 0; feature < FEATURES; feature++) {
            inputs[example][feature] = (float)(uniform() * 2 - 1);
            sum += inputs[example][feature] * (6.0 * feature / (FEATURES - 1) - 3);
        }
        labels[example] = uniform() < 1 / (1 + exp(-sum)) ? 1.0f : 0.0f;
    }
}

/* Adds a batch's mean gradient to `gradient`, and returns its summed loss. */
static double learn(int first, const float *weights, float *gradient)
{
    double loss = 0;
    for (int example = first; example < first + BATCH; example++) {
        double sum = 0;
        for (int feature = 0; feature < FEATURES; feature++)
            sum += inputs[example][feature] * weights[feature];
        double guess = 1 / (1 + exp(-sum));
        loss -= log(labels[example] > 0 ? guess + 1e-12 : 1 - guess + 1e-12);
        for (int feature = 0; feature < FEATURES; feature++)
            gradient[feature] += (float)((guess - labels[example]) / BATCH) * inputs[example][feature];
    }
    return loss;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: hello ADDRESS [PROVIDERS]\n");
        return 2;
    }
    windlass_options options = {.size = sizeof options, .providers = argc > 2 ? argv[2] : NULL};
    windlass_schema schema = {
        .size = sizeof schema, .rows = FEATURES, .width = 1, .rule = "sgd:lr=1.0"};
    windlass_client *client;
    windlass_table *table;
    check(windlass_connect(argv[1], &options, &client), "connect");
    check(windlass_create_table(client, "hello", &schema, &table), "create table");

    generate();
    for (int epoch = 0; epoch < EPOCHS; epoch++) {
        double loss = 0;
        for (int first = 0; first < EXAMPLES; first += BATCH) {
            float weights[FEATURES] = {0}, gradient[FEATURES] = {0};
            uint64_t pushed;
            check(windlass_pull_range(table, 0, FEATURES, weights, FEATURES, NULL), "pull");
            loss += learn(first, weights, gradient);
            check(windlass_push_range(table, 0, FEATURES, gradient, FEATURES, NULL, &pushed), "push");
            check(windlass_wait(client, pushed), "wait");
        }
        printf("epoch %d loss %.4f\n", epoch, loss / EXAMPLES);
    }
    check(windlass_close_table(table), "close table");
    check(windlass_close(client), "close");
    return 0;
}
