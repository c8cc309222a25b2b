/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import java.io.IOException;
import java.io.OutputStream;
import java.nio.channels.Channels;
import java.nio.channels.FileChannel;
import java.nio.file.AtomicMoveNotSupportedException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.TreeMap;
import java.util.UUID;

/**
 * Reads and writes BSR matrices as SciPy's {@code .npz} files and as safetensors.
 *
 * <p>Values are read as floats: float16 and bfloat16 exactly, float64 rounded to the nearest float
 * (too large a magnitude becomes infinite). They are written as float32. A file that is damaged, of
 * another format or holds an invalid matrix is a {@link BsrFormatException}; memory is taken only
 * for data that the file can hold.
 *
 * <p>Writing goes to a new file beside the target, which then takes its place: an error leaves what
 * was there before.
 */
public final class BsrFiles {

    private BsrFiles() {}

    /**
     * Reads a matrix that SciPy's {@code scipy.sparse.save_npz} wrote from a {@code bsr_array} or
     * {@code bsr_matrix}, compressed or not.
     *
     * <p>Indices are int32 or int64, data float32, float64 or float16 in C or Fortran order. As in
     * SciPy, the blocks of a block-row may be unsorted and repeated; they are sorted and summed.
     *
     * @param file the file, on the default file system
     * @return the matrix
     * @throws BsrFormatException if the file holds no valid BSR matrix
     * @throws IOException if the file cannot be read
     */
    public static BsrMatrix readNpz(Path file) throws IOException {
        return NpzReader.read(file);
    }

    /**
     * Writes a matrix for SciPy's {@code scipy.sparse.load_npz}.
     *
     * @param file the file, replaced if it exists
     * @param matrix the matrix
     * @throws IOException if the file cannot be written
     */
    public static void writeNpz(Path file, BsrMatrix matrix) throws IOException {
        BsrStructure.requireNonNull("matrix", matrix);
        replace(file, out -> NpzWriter.write(matrix, out));
    }

    /**
     * Reads all BSR matrices of a safetensors file.
     *
     * <p>A matrix named {@code n} is the tensors {@code n.crow_indices} and {@code n.col_indices}
     * (I32 or I64) and {@code n.values} (F32, F16, BF16 or F64, [nnzb, blockRows, blockCols]) with
     * {@code n.rows} and {@code n.cols} in the metadata; the one with the empty name has no prefix.
     * Other tensors are left alone.
     *
     * @param file the file
     * @return the matrices by name, in the file's order; empty if the file has none
     * @throws BsrFormatException if the file is damaged or a matrix in it is invalid
     * @throws IOException if the file cannot be read
     */
    public static Map<String, BsrMatrix> readSafetensors(Path file) throws IOException {
        try (SafetensorsReader reader = new SafetensorsReader(file)) {
            Map<String, BsrMatrix> matrices = new LinkedHashMap<>();
            for (String name : reader.names()) {
                matrices.put(name, reader.read(name));
            }
            return Collections.unmodifiableMap(matrices);
        }
    }

    /**
     * Reads one BSR matrix of a safetensors file.
     *
     * @param file the file
     * @param name the name of the matrix, empty for the one without a prefix
     * @return the matrix
     * @throws BsrFormatException if the file is damaged or holds no such valid matrix
     * @throws IOException if the file cannot be read
     */
    public static BsrMatrix readSafetensors(Path file, String name) throws IOException {
        BsrStructure.requireNonNull("name", name);
        try (SafetensorsReader reader = new SafetensorsReader(file)) {
            return reader.read(name);
        }
    }

    /**
     * Writes BSR matrices into one safetensors file, laid out as {@link #readSafetensors(Path)}
     * tells, with {@code format: bsr} in the metadata.
     *
     * @param file the file, replaced if it exists
     * @param matrices the matrices by name; the empty name stands for no prefix
     * @throws IOException if the file cannot be written
     */
    public static void writeSafetensors(Path file, Map<String, BsrMatrix> matrices)
            throws IOException {
        BsrStructure.requireNonNull("matrices", matrices);
        matrices.forEach((name, matrix) -> BsrStructure.requireNonNull("matrix " + name, matrix));
        TreeMap<String, BsrMatrix> sorted = new TreeMap<>(matrices);
        replace(file, out -> SafetensorsWriter.write(sorted, out));
    }

    /**
     * Writes one BSR matrix, without a name, into a safetensors file.
     *
     * @param file the file, replaced if it exists
     * @param matrix the matrix
     * @throws IOException if the file cannot be written
     */
    public static void writeSafetensors(Path file, BsrMatrix matrix) throws IOException {
        BsrStructure.requireNonNull("matrix", matrix);
        writeSafetensors(file, Map.of("", matrix));
    }

    interface Content {
        void writeTo(OutputStream out) throws IOException;
    }

    /** Writes a file beside the target and moves it into its place once it is on the disk. */
    static void replace(Path file, Content content) throws IOException {
        BsrStructure.requireNonNull("file", file);
        Path part = file.resolveSibling(file.getFileName() + "." + UUID.randomUUID() + ".part");
        try {
            try (FileChannel channel =
                    FileChannel.open(
                            part, StandardOpenOption.WRITE, StandardOpenOption.CREATE_NEW)) {
                content.writeTo(Channels.newOutputStream(channel));
                channel.force(true);
            }
            try {
                Files.move(part, file, StandardCopyOption.ATOMIC_MOVE);
            } catch (AtomicMoveNotSupportedException e) {
                Files.move(part, file, StandardCopyOption.REPLACE_EXISTING);
            }
        } finally {
            Files.deleteIfExists(part);
        }
    }
}
