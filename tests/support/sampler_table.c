/* Prints a sampler's table as JSON, for tests that compare it with another implementation.
 *     sampler_table scheduler_config.json SAMPLER SCHEDULE STEPS STRENGTH      (STRENGTH below 0: t2i)
 * Exit 0, or 1 with the message on stderr. */
#include <stdio.h>
#include <stdlib.h>

#include "sampler/sampler.h"

static void print_numbers(const char *name, const double *numbers, int count) {
    printf("\"%s\":[", name);
    for (int i = 0; i < count; i++)
        printf("%s%.17g", i > 0 ? "," : "", numbers[i]);
    printf("]");
}

static void print_row(const struct asdm_sampler_row *row, int history_count) {
    int inputs = ASDM_IN_HISTORY + history_count;
    printf("{\"timestep\":%.17g,\"input_scale\":%.17g,\"convert_latents\":%.17g,\"convert_model\":%.17g,",
           row->timestep, row->input_scale, row->convert_latents, row->convert_model);
    printf("\"clamp\":%.17g,\"draws_noise\":%s,\"step\":%d,", row->clamp, row->draws_noise ? "true" : "false",
           row->step);
    print_numbers("latents", row->latents, inputs);
    printf(",\"history\":[");
    for (int k = 0; k < history_count; k++) {
        printf("%s{", k > 0 ? "," : "");
        print_numbers("weights", row->history[k], inputs);
        printf("}");
    }
    printf("]}");
}

static void print_table(const struct asdm_sampler_table *table) {
    printf("{\"step_count\":%d,\"history_count\":%d,\"start_image\":%.17g,\"start_noise\":%.17g,\"rows\":[",
           table->step_count, table->history_count, table->start_image, table->start_noise);
    for (int i = 0; i < table->row_count; i++) {
        printf("%s\n", i > 0 ? "," : "");
        print_row(&table->rows[i], table->history_count);
    }
    printf("]}\n");
}

int main(int argc, char **argv) {
    struct asdm_scheduler_config config;
    struct asdm_sampler_table *table = NULL;
    struct asdm_error error;
    enum asdm_sampler sampler;
    enum asdm_schedule schedule = ASDM_SCHEDULE_DEFAULT;
    if (argc != 6) {
        fprintf(stderr, "usage: sampler_table scheduler_config.json SAMPLER SCHEDULE STEPS STRENGTH\n");
        return 2;
    }
    enum asdm_status status = asdm_scheduler_config_read(argv[1], &config, &error);
    if (status != ASDM_OK) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    status = asdm_sampler_find(argv[2], &sampler, &schedule, &error);
    if (status == ASDM_OK)
        status = asdm_schedule_find(argv[3], &schedule, &error);
    if (status == ASDM_OK)
        status = asdm_sampler_table_build(&config, sampler, schedule, atoi(argv[4]), atof(argv[5]), &table, &error);
    if (status == ASDM_OK)
        print_table(table);
    else
        fprintf(stderr, "%s\n", error.message);
    free(table);
    asdm_scheduler_config_done(&config);
    return status == ASDM_OK ? 0 : 1;
}
