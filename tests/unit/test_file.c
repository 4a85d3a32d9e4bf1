/* base/file.h. Runs in a directory of its own, which the group makes and removes. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"

static char home[] = "test_file.XXXXXX";

static int enter_home(void **state) {
    (void)state;
    return mkdtemp(home) && chdir(home) == 0 ? 0 : -1;
}

static int count_files(const char *directory) {
    DIR *stream = opendir(directory);
    int count = 0;
    assert_non_null(stream);
    for (struct dirent *entry; (entry = readdir(stream));)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(stream);
    return count;
}

/* Every test leaves the directory as it found it: no temporary file stays behind. */
static int leave_home(void **state) {
    (void)state;
    return chdir("..") == 0 && rmdir(home) == 0 ? 0 : -1;
}

static void put(const char *path, const char *text) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void assert_content(const char *path, const char *expected) {
    char *data = NULL;
    size_t size;
    assert_int_equal(asdm_file_read(path, 1 << 20, &data, &size, NULL), ASDM_OK);
    assert_int_equal(size, strlen(expected));
    assert_string_equal(data, expected);
    free(data);
}

#define EXPECT_FAIL(call, wanted_status, words)                                                                        \
    do {                                                                                                               \
        struct asdm_error err = {0};                                                                                   \
        struct asdm_error *e = &err;                                                                                   \
        assert_int_equal(call, wanted_status);                                                                         \
        assert_int_equal(err.status, wanted_status);                                                                   \
        assert_string_equal(err.message, words);                                                                       \
        (void)e;                                                                                                       \
    } while (0)

static void files_are_mapped(void **state) {
    (void)state;
    struct asdm_mapping mapping = {0};
    put("a", "hello");
    assert_int_equal(asdm_file_map("a", &mapping, NULL), ASDM_OK);
    assert_int_equal(mapping.size, 5);
    assert_memory_equal(mapping.data, "hello", 5);
    asdm_file_release(&mapping, 0, 5);
    assert_memory_equal(mapping.data, "hello", 5); /* read again */
    asdm_file_unmap(&mapping);
    assert_null(mapping.data);
    assert_int_equal(mapping.size, 0);
    asdm_file_unmap(&mapping); /* harmless */
    put("a", "");
    assert_int_equal(asdm_file_map("a", &mapping, NULL), ASDM_OK);
    assert_null(mapping.data);
    assert_int_equal(mapping.size, 0);
    asdm_file_release(&mapping, 0, 100);
    asdm_file_unmap(&mapping);
    unlink("a");
}

static void released_ranges_read_the_same_again(void **state) {
    (void)state;
    enum { SIZE = 100000 };
    struct asdm_mapping mapping;
    FILE *file = fopen("a", "wb");
    assert_non_null(file);
    for (int i = 0; i < SIZE; i++)
        fputc(i % 251, file);
    fclose(file);
    assert_int_equal(asdm_file_map("a", &mapping, NULL), ASDM_OK);
    static const size_t ranges[][2] = {{0, SIZE}, {1, 4095}, {4096, 4096}, {4095, 8194},     {99999, 1},
                                       {SIZE, 1}, {0, 0},    {5000, SIZE}, {5000, SIZE_MAX}, {SIZE_MAX, SIZE_MAX}};
    for (size_t r = 0; r < sizeof ranges / sizeof *ranges; r++) {
        asdm_file_release(&mapping, ranges[r][0], ranges[r][1]);
        for (int i = 0; i < SIZE; i++)
            if (mapping.data[i] != i % 251)
                fail_msg("byte %d changed", i);
    }
    asdm_file_unmap(&mapping);
    unlink("a");
}

static void what_is_no_file_is_refused_in_words(void **state) {
    (void)state;
    struct asdm_mapping mapping = {(const unsigned char *)"x", 77};
    char *data = home;
    size_t size = 77;
    assert_int_equal(mkdir("dir", 0755), 0);
    assert_int_equal(mkfifo("pipe", 0600), 0);
    assert_int_equal(symlink("pipe", "link"), 0);
    assert_int_equal(symlink("loop", "loop"), 0);
    put("plain", "");
    static const struct {
        const char *path;
        enum asdm_status status;
        const char *message;
    } cases[] = {
        {"absent", ASDM_ERR_NOT_FOUND, "absent: cannot be opened: No such file or directory"},
        {"absent/x", ASDM_ERR_NOT_FOUND, "absent/x: cannot be opened: No such file or directory"},
        {"plain/x", ASDM_ERR_NOT_FOUND, "plain/x: cannot be opened: Not a directory"},
        {"", ASDM_ERR_NOT_FOUND, ": cannot be opened: No such file or directory"},
        {"dir", ASDM_ERR_IO, "dir: is a directory, not a file"},
        {"pipe", ASDM_ERR_IO, "pipe: is a pipe, not a file"}, /* and nobody waits for a writer */
        {"link", ASDM_ERR_IO, "link: is a pipe, not a file"},
        {"loop", ASDM_ERR_IO, "loop: cannot be opened: Too many levels of symbolic links"},
        {"/dev/null", ASDM_ERR_IO, "/dev/null: is a character device, not a file"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        EXPECT_FAIL(asdm_file_map(cases[i].path, &mapping, e), cases[i].status, cases[i].message);
        EXPECT_FAIL(asdm_file_read(cases[i].path, 100, &data, &size, e), cases[i].status, cases[i].message);
        assert_true(asdm_file_exists(cases[i].path) == false);
    }
    assert_int_equal(mapping.size, 77); /* outputs untouched */
    assert_ptr_equal(data, home);
    assert_int_equal(size, 77);
    assert_true(asdm_file_is_directory("dir"));
    assert_false(asdm_file_is_directory("plain"));
    assert_false(asdm_file_is_directory("absent"));
    assert_true(asdm_file_exists("plain"));
    unlink("plain"), unlink("loop"), unlink("link"), unlink("pipe"), rmdir("dir");
}

static void unreadable_files_are_refused(void **state) {
    (void)state;
    if (geteuid() == 0)
        skip(); /* nothing is unreadable for root */
    put("a", "x");
    assert_int_equal(chmod("a", 0), 0);
    struct asdm_mapping mapping;
    EXPECT_FAIL(asdm_file_map("a", &mapping, e), ASDM_ERR_IO, "a: cannot be opened: Permission denied");
    unlink("a");
}

static void files_are_read_up_to_the_limit(void **state) {
    (void)state;
    char *data = NULL;
    size_t size = 0;
    put("a", "12345");
    assert_int_equal(asdm_file_read("a", 5, &data, &size, NULL), ASDM_OK);
    assert_int_equal(size, 5);
    assert_string_equal(data, "12345"); /* with its NUL */
    free(data);
    EXPECT_FAIL(asdm_file_read("a", 4, &data, &size, e), ASDM_ERR_FORMAT, "a: 5 bytes, more than the 4 allowed");
    put("a", "");
    assert_int_equal(asdm_file_read("a", 0, &data, &size, NULL), ASDM_OK);
    assert_int_equal(size, 0);
    assert_string_equal(data, "");
    free(data);
    unlink("a");
}

static void written_files_appear_whole(void **state) {
    (void)state;
    struct asdm_file_writer writer;
    put("a", "old");
    assert_int_equal(asdm_file_writer_open(&writer, "a", NULL), ASDM_OK);
    assert_int_equal(count_files("."), 2);
    assert_int_equal(strncmp(writer.temporary, ".a.tmp-", 7), 0); /* hidden, beside it */
    assert_int_equal(fcntl(fileno(writer.stream), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    assert_int_equal(asdm_file_writer_write(&writer, "new", 3, NULL), ASDM_OK);
    assert_int_equal(asdm_file_writer_write(&writer, NULL, 0, NULL), ASDM_OK);
    assert_true(fprintf(writer.stream, " %d", 42) > 0);
    fflush(writer.stream);
    assert_content("a", "old"); /* until the commit */
    assert_int_equal(asdm_file_writer_commit(&writer, NULL), ASDM_OK);
    assert_content("a", "new 42");
    assert_int_equal(count_files("."), 1);
    assert_null(writer.stream);
    asdm_file_writer_abort(&writer); /* harmless afterwards */
    unlink("a");
}

static void aborted_files_leave_nothing(void **state) {
    (void)state;
    struct asdm_file_writer writer = {0};
    asdm_file_writer_abort(&writer);
    put("a", "old");
    assert_int_equal(asdm_file_writer_open(&writer, "./a", NULL), ASDM_OK);
    assert_int_equal(asdm_file_writer_write(&writer, "new", 3, NULL), ASDM_OK);
    asdm_file_writer_abort(&writer);
    asdm_file_writer_abort(&writer);
    assert_content("a", "old");
    assert_int_equal(count_files("."), 1);
    unlink("a");
}

static void two_writers_of_one_name_do_not_meet(void **state) {
    (void)state;
    struct asdm_file_writer one, two;
    assert_int_equal(asdm_file_writer_open(&one, "a", NULL), ASDM_OK);
    assert_int_equal(asdm_file_writer_open(&two, "a", NULL), ASDM_OK);
    assert_int_equal(asdm_file_writer_write(&one, "one", 3, NULL), ASDM_OK);
    assert_int_equal(asdm_file_writer_write(&two, "second", 6, NULL), ASDM_OK);
    assert_int_equal(asdm_file_writer_commit(&two, NULL), ASDM_OK);
    assert_content("a", "second");
    assert_int_equal(asdm_file_writer_commit(&one, NULL), ASDM_OK);
    assert_content("a", "one");
    unlink("a");
}

static void permissions_are_kept_and_umask_obeyed(void **state) {
    (void)state;
    struct asdm_file_writer writer;
    struct stat info;
    mode_t before = umask(027);
    assert_int_equal(asdm_file_writer_open(&writer, "a", NULL), ASDM_OK);
    assert_int_equal(asdm_file_writer_commit(&writer, NULL), ASDM_OK);
    assert_int_equal(stat("a", &info), 0);
    assert_int_equal(info.st_mode & 0777, 0640);
    assert_int_equal(chmod("a", 0600), 0);
    umask(before);
    assert_int_equal(asdm_file_writer_open(&writer, "a", NULL), ASDM_OK);
    assert_int_equal(asdm_file_writer_commit(&writer, NULL), ASDM_OK);
    assert_int_equal(stat("a", &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    unlink("a");
}

static void long_names_still_have_a_temporary_one(void **state) {
    (void)state;
    char name[256], longer[258];
    struct asdm_file_writer writer;
    memset(name, 'n', 255);
    name[255] = '\0';
    assert_int_equal(asdm_file_writer_open(&writer, name, NULL), ASDM_OK);
    assert_int_equal(asdm_file_writer_commit(&writer, NULL), ASDM_OK);
    assert_int_equal(unlink(name), 0);
    memset(longer, 'n', 257);
    longer[257] = '\0';
    struct asdm_error err;
    assert_int_equal(asdm_file_writer_open(&writer, longer, NULL), ASDM_OK); /* the temporary name is short enough */
    assert_int_equal(asdm_file_writer_commit(&writer, &err), ASDM_ERR_IO);
    assert_non_null(strstr(err.message, "cannot be replaced: File name too long"));
    assert_int_equal(count_files("."), 0);
}

static void bad_targets_are_refused_before_any_work(void **state) {
    (void)state;
    struct asdm_file_writer writer;
    assert_int_equal(mkdir("dir", 0755), 0);
    static const struct {
        const char *path;
        enum asdm_status status;
        const char *message;
    } cases[] = {
        {"", ASDM_ERR_ARGUMENT, "cannot write a file whose name is empty"},
        {"dir/", ASDM_ERR_ARGUMENT, "dir/: names a directory, not a file to write"},
        {"absent/", ASDM_ERR_ARGUMENT, "absent/: names a directory, not a file to write"},
        {"dir", ASDM_ERR_IO, "dir: is a directory, cannot be replaced by a file"},
        {".", ASDM_ERR_IO, ".: is a directory, cannot be replaced by a file"},
        {"/dev/null", ASDM_ERR_IO, "/dev/null: is a character device, cannot be replaced by a file"},
        {"absent/a", ASDM_ERR_NOT_FOUND, "absent/a: cannot be written: No such file or directory"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        EXPECT_FAIL(asdm_file_writer_open(&writer, cases[i].path, e), cases[i].status, cases[i].message);
        assert_null(writer.stream);
        asdm_file_writer_abort(&writer);
        EXPECT_FAIL(asdm_file_check_writable(cases[i].path, e), cases[i].status, cases[i].message);
    }
    assert_int_equal(asdm_file_check_writable("a", NULL), ASDM_OK);
    assert_int_equal(asdm_file_check_writable("dir/a", NULL), ASDM_OK);
    assert_int_equal(count_files("."), 1); /* the check leaves nothing */
    if (geteuid() != 0) {
        assert_int_equal(chmod("dir", 0555), 0);
        EXPECT_FAIL(asdm_file_check_writable("dir/a", e), ASDM_ERR_IO, "dir/a: cannot be written: Permission denied");
    }
    rmdir("dir");
}

/* A limit on the size of files stands in for a full disk: the write fails with an errno in the same places. */
static void full_disks_keep_the_old_file(void **state) {
    (void)state;
    enum { LIMIT = 8192 };
    struct rlimit before, small = {LIMIT, RLIM_INFINITY};
    struct asdm_file_writer writer;
    struct asdm_error err = {0};
    static char block[3 * LIMIT];
    put("a", "old");
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    /* in one large write */
    assert_int_equal(asdm_file_writer_open(&writer, "a", NULL), ASDM_OK);
    assert_int_equal(asdm_file_writer_write(&writer, block, sizeof block, &err), ASDM_ERR_IO);
    assert_string_equal(err.message, "a: cannot be written: File too large");
    assert_int_equal(asdm_file_writer_commit(&writer, &err), ASDM_ERR_IO); /* a caller who missed it is stopped here */
    assert_string_equal(err.message, "a: cannot be written: an earlier write failed");
    /* in what the stream still holds */
    assert_int_equal(asdm_file_writer_open(&writer, "a", NULL), ASDM_OK);
    assert_int_equal(asdm_file_writer_write(&writer, block, LIMIT, NULL), ASDM_OK);
    assert_int_equal(asdm_file_writer_write(&writer, "x", 1, NULL), ASDM_OK);
    assert_int_equal(asdm_file_writer_commit(&writer, &err), ASDM_ERR_IO);
    assert_string_equal(err.message, "a: cannot be written: File too large");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_content("a", "old");
    assert_int_equal(count_files("."), 1);
    unlink("a");
}

static void a_target_that_became_a_directory_fails_clean(void **state) {
    (void)state;
    struct asdm_file_writer writer;
    assert_int_equal(asdm_file_writer_open(&writer, "a", NULL), ASDM_OK);
    assert_int_equal(mkdir("a", 0755), 0);
    EXPECT_FAIL(asdm_file_writer_commit(&writer, e), ASDM_ERR_IO, "a: cannot be replaced: Is a directory");
    assert_int_equal(count_files("."), 1);
    rmdir("a");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_are_mapped),
        cmocka_unit_test(released_ranges_read_the_same_again),
        cmocka_unit_test(what_is_no_file_is_refused_in_words),
        cmocka_unit_test(unreadable_files_are_refused),
        cmocka_unit_test(files_are_read_up_to_the_limit),
        cmocka_unit_test(written_files_appear_whole),
        cmocka_unit_test(aborted_files_leave_nothing),
        cmocka_unit_test(two_writers_of_one_name_do_not_meet),
        cmocka_unit_test(permissions_are_kept_and_umask_obeyed),
        cmocka_unit_test(long_names_still_have_a_temporary_one),
        cmocka_unit_test(bad_targets_are_refused_before_any_work),
        cmocka_unit_test(full_disks_keep_the_old_file),
        cmocka_unit_test(a_target_that_became_a_directory_fails_clean),
    };
    return cmocka_run_group_tests(tests, enter_home, leave_home);
}
