/* What must hold, or the test ends with where and why it does not. */
#ifndef WINDLASS_TESTS_EXPECT_H
#define WINDLASS_TESTS_EXPECT_H

#include <stdio.h>
#include <stdlib.h>
#include <windlass.h>

#define EXPECT(condition)                                                              \
    do {                                                                               \
        if (!(condition)) {                                                            \
            fprintf(stderr, "%s:%d: %s; last error: %s\n", __FILE__, __LINE__,         \
                    #condition, windlass_last_error());                                \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)
#define OK(call) EXPECT((call) == WINDLASS_STATUS_OK)

#endif
