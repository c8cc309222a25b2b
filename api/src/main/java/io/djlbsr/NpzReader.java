/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import java.io.DataInputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.zip.CRC32;
import java.util.zip.CheckedInputStream;
import java.util.zip.ZipEntry;
import java.util.zip.ZipException;
import java.util.zip.ZipFile;

/**
 * Reads SciPy's {@code .npz} layout of a BSR matrix: a zip file with the members indices, indptr,
 * format, shape and data, each a NumPy array with a header ({@code numpy.lib.format}).
 */
final class NpzReader {

    private final Path path;
    private final ZipFile zip;
    private final long fileSize;

    private NpzReader(Path path, ZipFile zip, long fileSize) {
        this.path = path;
        this.zip = zip;
        this.fileSize = fileSize;
    }

    static BsrMatrix read(Path path) throws IOException {
        try (ZipFile zip = new ZipFile(path.toFile())) {
            return new NpzReader(path, zip, Files.size(path)).readMatrix();
        } catch (ZipException | EOFException e) {
            throw new BsrFormatException(
                    path, "zip directory", "truncated, damaged or no zip file: " + e, e);
        }
    }

    private BsrMatrix readMatrix() throws IOException {
        String format = readMember("format", NpzReader::readText);
        if (!format.equals("bsr")) {
            throw new BsrFormatException(
                    path,
                    "format.npy",
                    "the matrix has format '"
                            + format
                            + "'; convert it with tobsr(blocksize=...) in SciPy",
                    null);
        }
        int[] shape = readMember("shape", (header, in) -> readInts(header, in, 2));
        int[] crow = readMember("indptr", (header, in) -> readInts(header, in, -1));
        int[] col = readMember("indices", (header, in) -> readInts(header, in, -1));
        int[] blockShape = new int[3];
        float[] values = readMember("data", (header, in) -> readBlocks(header, in, blockShape));
        try {
            if (blockShape[0] != col.length) {
                throw new IllegalArgumentException(
                        "data holds " + blockShape[0] + " blocks, indices " + col.length);
            }
            return BsrConversions.fromCompressed(
                    shape[0], shape[1], blockShape[1], blockShape[2], crow, col, values);
        } catch (IllegalArgumentException e) {
            throw new BsrFormatException(
                    path,
                    "shape, indptr (crowIndices), indices (colIndices), data (values)",
                    e.getMessage(),
                    e);
        }
    }

    private static String readText(NpyHeader header, InputStream in) throws IOException {
        int bytesPerChar = header.descr.contains("U") ? 4 : 1;
        if (!header.descr.matches("[|<>=]?[SU]\\d{1,3}") || header.shape.length != 0) {
            throw new IllegalArgumentException(header + " is no text");
        }
        int length = Integer.parseInt(header.descr.replaceAll("\\D", ""));
        ByteBuffer bytes = ByteBuffer.allocate(length * bytesPerChar).order(header.order());
        new DataInputStream(in).readFully(bytes.array());
        StringBuilder text = new StringBuilder();
        while (bytes.hasRemaining()) {
            text.append((char) (bytesPerChar == 4 ? bytes.getInt() : bytes.get()));
        }
        return text.toString().replace("\0", "");
    }

    private static int[] readInts(NpyHeader header, InputStream in, int length) throws IOException {
        if (!header.type().integer) {
            throw new IllegalArgumentException(header + "; it must be int32 or int64");
        }
        if (header.shape.length != 1 || (length >= 0 && header.shape[0] != length)) {
            throw new IllegalArgumentException(
                    header + "; it must have one dimension" + (length < 0 ? "" : " of " + length));
        }
        return new ElementReader(in, header.type(), header.order()).readInts(header.shape[0]);
    }

    private static float[] readBlocks(NpyHeader header, InputStream in, int[] shape)
            throws IOException {
        if (header.type().integer) {
            throw new IllegalArgumentException(header + "; it must be float32, float64 or float16");
        }
        if (header.shape.length != 3) {
            throw new IllegalArgumentException(
                    header + "; it must be [nnzb, blockRows, blockCols]");
        }
        System.arraycopy(header.shape, 0, shape, 0, 3);
        float[] stored =
                new ElementReader(in, header.type(), header.order())
                        .readFloats((int) header.elements());
        if (!header.fortranOrder) {
            return stored;
        }
        float[] values = new float[stored.length];
        int at = 0;
        for (int k = 0; k < shape[0]; k++) {
            for (int r = 0; r < shape[1]; r++) {
                for (int c = 0; c < shape[2]; c++) {
                    values[at++] = stored[k + shape[0] * (r + shape[1] * c)];
                }
            }
        }
        return values;
    }

    private interface Decoder<T> {
        T decode(NpyHeader header, InputStream in) throws IOException;
    }

    /** Reads one member wholly, so that its checksum is known before its content is believed. */
    private <T> T readMember(String name, Decoder<T> decoder) throws IOException {
        String member = name + ".npy";
        ZipEntry entry = zip.getEntry(member);
        if (entry == null) {
            throw new BsrFormatException(
                    path, member, "missing; a BSR file of SciPy's save_npz has it", null);
        }
        try (CheckedInputStream in =
                new CheckedInputStream(zip.getInputStream(entry), new CRC32())) {
            NpyHeader header = NpyHeader.read(in);
            header.checkSize(entry, fileSize);
            T content = decoder.decode(header, in);
            if (in.read() >= 0) {
                throw new IllegalArgumentException("the data goes on after its last element");
            }
            if (in.getChecksum().getValue() != entry.getCrc()) {
                throw new IllegalArgumentException("the checksum is wrong: the file is damaged");
            }
            return content;
        } catch (EOFException | ZipException e) {
            throw new BsrFormatException(
                    path, member, "truncated or damaged: " + e.getMessage(), e);
        } catch (IllegalArgumentException e) {
            throw new BsrFormatException(path, member, e.getMessage(), e);
        }
    }
}
