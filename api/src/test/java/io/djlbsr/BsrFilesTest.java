/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import io.djlbsr.BsrPatterns.Pattern;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** What is written comes back, and nothing is lost when writing fails. */
class BsrFilesTest {

    @TempDir Path folder;

    @ParameterizedTest
    @MethodSource("io.djlbsr.Cases#matrices")
    void comesBackFromFiles(BsrMatrix m) throws IOException {
        Path npz = folder.resolve("m.npz");
        BsrFiles.writeNpz(npz, m);
        assertEquals(m, BsrFiles.readNpz(npz));
        Path safetensors = folder.resolve("m.safetensors");
        BsrFiles.writeSafetensors(safetensors, m);
        assertEquals(Map.of("", m), BsrFiles.readSafetensors(safetensors));
        assertEquals(m, BsrFiles.readSafetensors(safetensors, ""));
    }

    @Test
    void specialValuesComeBack() throws IOException {
        float[] values = {
            Float.NaN, Float.NEGATIVE_INFINITY, -0f, Float.MIN_VALUE, Float.MAX_VALUE, 0, 1, -1
        };
        BsrMatrix m =
                BsrMatrix.of(BsrStructure.of(2, 4, 2, 4, new int[] {0, 1}, new int[1]), values);
        Path npz = folder.resolve("m.npz");
        BsrFiles.writeNpz(npz, m);
        assertEquals(m, BsrFiles.readNpz(npz));
        Path safetensors = folder.resolve("m.safetensors");
        BsrFiles.writeSafetensors(safetensors, m);
        assertEquals(m, BsrFiles.readSafetensors(safetensors, ""));
    }

    @Test
    void largeMatrixComesBack() throws IOException {
        BsrMatrix m = BsrPatterns.matrix(Pattern.RANDOM, 2048, 1024, 32, 32, 0.5, 1);
        Path npz = folder.resolve("m.npz");
        BsrFiles.writeNpz(npz, m);
        assertEquals(m, BsrFiles.readNpz(npz));
        Path safetensors = folder.resolve("m.safetensors");
        BsrFiles.writeSafetensors(safetensors, m);
        assertEquals(m, BsrFiles.readSafetensors(safetensors, ""));
    }

    @Test
    void severalMatricesShareAFile() throws IOException {
        Path file = folder.resolve("model.safetensors");
        Map<String, BsrMatrix> matrices =
                Map.of(
                        "encoder.0.ffn \u00e9\"\n",
                        BsrPatterns.matrix(Pattern.RANDOM, 64, 96, 16, 32, 0.5, 1),
                        "b",
                        BsrPatterns.matrix(Pattern.EMPTY, 8, 8, 4, 4, 0.5, 1),
                        "",
                        BsrPatterns.matrix(Pattern.FULL, 10, 14, 5, 7, 0.5, 1));
        BsrFiles.writeSafetensors(file, matrices);
        assertEquals(matrices, BsrFiles.readSafetensors(file));
        assertEquals(matrices.get("b"), BsrFiles.readSafetensors(file, "b"));
        BsrFiles.writeSafetensors(file, Map.of());
        assertEquals(Map.of(), BsrFiles.readSafetensors(file));
    }

    @Test
    void sameMatrixGivesSameBytes() throws IOException {
        BsrMatrix m = BsrPatterns.matrix(Pattern.RANDOM, 64, 96, 16, 32, 0.5, 1);
        Path a = folder.resolve("a");
        Path b = folder.resolve("b");
        BsrFiles.writeNpz(a, m);
        BsrFiles.writeNpz(b, m);
        assertArrayEquals(Files.readAllBytes(a), Files.readAllBytes(b));
    }

    @Test
    void failedWriteLeavesTheOldFileAndNoOther() throws IOException {
        Path file = folder.resolve("m.npz");
        Files.writeString(file, "old");
        IOException full = new IOException("disk full");
        IOException thrown =
                assertThrows(
                        IOException.class,
                        () ->
                                BsrFiles.replace(
                                        file,
                                        out -> {
                                            out.write(1);
                                            throw full;
                                        }));
        assertEquals(full, thrown);
        assertEquals("old", Files.readString(file));
        try (Stream<Path> files = Files.list(folder)) {
            assertEquals(List.of(file), files.toList());
        }
    }

    @Test
    void missingFilesAndFoldersAreNamed() {
        BsrMatrix m = BsrPatterns.matrix(Pattern.FULL, 2, 2, 1, 1, 1, 1);
        Path none = folder.resolve("none").resolve("m");
        for (NoSuchFileException e :
                List.of(
                        assertThrows(NoSuchFileException.class, () -> BsrFiles.readNpz(none)),
                        assertThrows(
                                NoSuchFileException.class, () -> BsrFiles.readSafetensors(none)),
                        assertThrows(
                                NoSuchFileException.class, () -> BsrFiles.writeNpz(none, m)))) {
            assertEquals(true, e.getMessage().startsWith(none.toString()), e.getMessage());
        }
        Cases.assertRejects("matrix is null", () -> BsrFiles.writeNpz(none, null));
        Cases.assertRejects("file is null", () -> BsrFiles.writeNpz(null, m));
    }
}
