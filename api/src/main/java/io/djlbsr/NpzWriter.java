/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import java.io.BufferedOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.time.LocalDateTime;
import java.util.Locale;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;

/** Writes SciPy's {@code .npz} layout of a BSR matrix. */
final class NpzWriter {

    private NpzWriter() {}

    static void write(BsrMatrix matrix, OutputStream out) throws IOException {
        BsrStructure s = matrix.getStructure();
        ZipOutputStream zip = new ZipOutputStream(out);
        writeInts(zip, "indices", s.getColIndices());
        writeInts(zip, "indptr", s.getCrowIndices());
        writeMember(
                zip,
                "format",
                "|S3",
                "()",
                o -> o.write("bsr".getBytes(StandardCharsets.US_ASCII)));
        writeInts(zip, "shape", s.getRows(), s.getCols());
        String shape =
                String.format(
                        Locale.ROOT,
                        "(%d, %d, %d)",
                        s.getNnzb(),
                        s.getBlockRows(),
                        s.getBlockCols());
        writeMember(zip, "data", "<f4", shape, o -> ElementWriter.write(o, matrix.values()));
        // SciPy then gives a bsr_array, not a bsr_matrix.
        writeMember(zip, "_is_array", "|b1", "()", o -> o.write(1));
        zip.finish();
    }

    private static void writeInts(ZipOutputStream zip, String name, int... elements)
            throws IOException {
        writeMember(
                zip,
                name,
                "<i4",
                "(" + elements.length + ",)",
                o -> ElementWriter.write(o, elements));
    }

    private interface Content {
        void writeTo(OutputStream out) throws IOException;
    }

    private static void writeMember(
            ZipOutputStream zip, String name, String descr, String shape, Content content)
            throws IOException {
        ZipEntry entry = new ZipEntry(name + ".npy");
        // The same matrix gives the same bytes.
        entry.setTimeLocal(LocalDateTime.of(1980, 1, 1, 0, 0));
        zip.putNextEntry(entry);
        String header =
                String.format(
                        Locale.ROOT,
                        "{'descr': '%s', 'fortran_order': False, 'shape': %s, }",
                        descr,
                        shape);
        // Padded so that the data starts at a multiple of 64 bytes, as NumPy does.
        int padded =
                (NpyHeader.MAGIC.length + 4 + header.length() + 1 + 63) / 64 * 64
                        - NpyHeader.MAGIC.length
                        - 4;
        OutputStream out = new BufferedOutputStream(zip, 1 << 16);
        out.write(NpyHeader.MAGIC);
        out.write(new byte[] {1, 0, (byte) padded, (byte) (padded >> 8)});
        out.write(header.getBytes(StandardCharsets.US_ASCII));
        out.write(" ".repeat(padded - header.length() - 1).getBytes(StandardCharsets.US_ASCII));
        out.write('\n');
        content.writeTo(out);
        out.flush();
        zip.closeEntry();
    }
}
