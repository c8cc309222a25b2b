/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.ndarray.types.DataType;
import ch.qos.logback.classic.Level;
import ch.qos.logback.classic.Logger;
import ch.qos.logback.classic.spi.ILoggingEvent;
import ch.qos.logback.core.read.ListAppender;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.slf4j.LoggerFactory;

/** Profiles come from a file, or are measured once; made-up times stand for the measurement. */
class CpuProfilesTest {

    private static final List<String> POINTS = List.of("dense, 1 token", "4x4, 1 token");

    @TempDir private Path folder;
    private final FakeSource source = new FakeSource();
    private final ListAppender<ILoggingEvent> log = new ListAppender<>();

    /** Counts measurements; the times are the count and a half. */
    private final class FakeSource implements CpuProfiles.Source {
        final AtomicInteger measured = new AtomicInteger();
        volatile double[] used;
        String isa = "avx2";
        Path target;

        @Override
        public CpuProfileFile.Key key(DataType dataType) {
            return new CpuProfileFile.Key("CPU", isa, "1.2.3", "2.7.1", dataType.name());
        }

        @Override
        public List<String> points() {
            return POINTS;
        }

        @Override
        public double[] measure(DataType dataType) {
            double[] seconds = new double[POINTS.size()];
            Arrays.fill(seconds, measured.incrementAndGet() + 0.5);
            return seconds;
        }

        @Override
        public void use(DataType dataType, double[] seconds) {
            used = seconds.clone();
        }

        @Override
        public Path folder() {
            return target == null ? folder.resolve("djlbsr") : target;
        }
    }

    @BeforeEach
    void listen() {
        log.start();
        ((Logger) LoggerFactory.getLogger(CpuProfiles.class)).addAppender(log);
    }

    @AfterEach
    void detach() {
        ((Logger) LoggerFactory.getLogger(CpuProfiles.class)).detachAppender(log);
    }

    private void load(String setting) {
        new CpuProfiles(source, () -> setting).load(DataType.FLOAT32);
    }

    private Path onlyFile() throws IOException {
        try (Stream<Path> files = Files.list(source.folder())) {
            List<Path> json = files.filter(file -> file.toString().endsWith(".json")).toList();
            assertEquals(1, json.size(), () -> "files: " + json);
            return json.get(0);
        }
    }

    private List<String> warnings() {
        return log.list.stream()
                .filter(event -> event.getLevel() == Level.WARN)
                .map(ILoggingEvent::getFormattedMessage)
                .toList();
    }

    @Test
    void measuresOnceAndKeepsTheFile() throws IOException {
        CpuProfiles profiles = new CpuProfiles(source, () -> "");
        for (int i = 0; i < 3; i++) {
            profiles.load(DataType.FLOAT32);
        }
        load("");
        assertEquals(1, source.measured.get());
        assertArrayEquals(new double[] {1.5, 1.5}, source.used);
        String text = Files.readString(onlyFile());
        assertTrue(text.contains("\"4x4, 1 token\": 1.5"), text);
        assertTrue(text.contains("\"isa\": \"avx2\""), text);
        profiles.load(DataType.FLOAT16);
        assertEquals(2, source.measured.get(), "a profile a data type");
        try (Stream<Path> files = Files.list(source.folder())) {
            assertFalse(
                    files.anyMatch(file -> file.toString().endsWith(".tmp")), "a temporary file");
        }
        assertEquals(List.of(), warnings());
    }

    @Test
    void anotherMachineMeasuresItsOwn() throws IOException {
        load("");
        source.isa = "avx512";
        load("");
        assertEquals(2, source.measured.get());
        assertArrayEquals(new double[] {2.5, 2.5}, source.used);
        source.isa = "avx2";
        load("");
        assertArrayEquals(new double[] {1.5, 1.5}, source.used, "the first file is still there");
    }

    @Test
    void damagedFilesAreMeasuredAnewWithAWarning() throws IOException {
        load("");
        Path file = onlyFile();
        String right = Files.readString(file);
        List<String> damaged =
                List.of(
                        "",
                        "null",
                        "{",
                        "[]",
                        "{}",
                        "{\"holdsFor\": {}, \"seconds\": {}}",
                        right.substring(0, right.length() / 2),
                        right.replace("\"CPU\"", "\"Another CPU\""),
                        right.replace("4x4, 1", "4x4, 2"),
                        right.replace("1.5", "-1.5"),
                        right.replace("1.5", "0"),
                        right.replace("1.5", "NaN"),
                        right.replace("1.5", "1e300"),
                        right.replace("1.5", "\"fast\""),
                        right.replace("1.5", "null"),
                        "\u0000\u0001\u0002");
        int count = 1;
        for (String text : damaged) {
            Files.writeString(file, text);
            log.list.clear();
            load("");
            count++;
            assertEquals(count, source.measured.get(), () -> "taken: " + text);
            assertArrayEquals(new double[] {count + 0.5, count + 0.5}, source.used);
            assertEquals(1, warnings().size(), () -> warnings() + " for " + text);
            assertTrue(warnings().get(0).contains("measured anew"), warnings()::toString);
            load("");
            assertEquals(count, source.measured.get(), "the file was not mended");
        }
        Files.write(file, new byte[] {(byte) 0xff, (byte) 0xfe, 0});
        load("");
        assertEquals(count + 1, source.measured.get());
    }

    @Test
    void thePropertyDisablesRenewsAndRedirects() throws IOException {
        load("builtin");
        assertEquals(0, source.measured.get());
        assertFalse(Files.exists(source.folder()), "a folder for nothing");
        load("");
        load("measure");
        assertEquals(2, source.measured.get());
        Path file = onlyFile();
        Path copy = folder.resolve("mine.json");
        Files.copy(file, copy);
        Files.delete(file);
        source.used = null;
        load(copy.toString());
        assertEquals(2, source.measured.get());
        assertArrayEquals(new double[] {2.5, 2.5}, source.used);
    }

    @Test
    void aNamedFileThatIsMissingIsToldAndNotMeasured() {
        load(folder.resolve("missing.json").toString());
        assertEquals(0, source.measured.get());
        assertEquals(1, warnings().size());
        assertTrue(warnings().get(0).contains("built-in"), warnings()::toString);
    }

    @Test
    void aFolderThatCannotBeMadeCostsOnlyTheFile() throws IOException {
        Path obstacle = Files.createFile(folder.resolve("file"));
        source.target = obstacle.resolve("djlbsr");
        load("");
        assertEquals(1, source.measured.get());
        assertArrayEquals(new double[] {1.5, 1.5}, source.used);
        assertEquals(1, warnings().size(), warnings()::toString);
    }

    /** Instances stand for processes: each of them reads a whole file or measures. */
    @Test
    void concurrentFirstUse() throws Exception {
        int processes = 6;
        ExecutorService pool = Executors.newFixedThreadPool(2 * processes);
        try {
            List<Future<?>> results = new ArrayList<>();
            for (int p = 0; p < processes; p++) {
                CpuProfiles profiles = new CpuProfiles(source, () -> "");
                for (int thread = 0; thread < 2; thread++) {
                    results.add(pool.submit(() -> profiles.load(DataType.FLOAT32)));
                }
            }
            for (Future<?> result : results) {
                result.get(60, TimeUnit.SECONDS);
            }
        } finally {
            pool.shutdownNow();
        }
        assertTrue(source.measured.get() >= 1 && source.measured.get() <= processes);
        assertEquals(List.of(), warnings(), "a half-written file was read");
        CpuProfileFile file = new CpuProfileFile(onlyFile(), source.key(DataType.FLOAT32), POINTS);
        assertEquals(2, file.read().length);
    }
}
