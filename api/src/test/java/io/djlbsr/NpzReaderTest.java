/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Files that SciPy wrote (see make_fixtures.py beside them), and broken ones. */
class NpzReaderTest {

    private static final int[] CROW = {0, 2, 2, 3};
    private static final int[] COL = {0, 2, 1};

    @TempDir Path folder;

    private static byte[] fixture(String name) throws IOException {
        try (InputStream in = NpzReaderTest.class.getResourceAsStream(name)) {
            return in.readAllBytes();
        }
    }

    private Path file(byte[] content) throws IOException {
        return Files.write(folder.resolve("m.npz"), content);
    }

    /** The matrix of the fixtures: element [k, r, c] is 100 k + 10 r + c + 0.5. */
    private static BsrMatrix expected() {
        float[] values = new float[18];
        for (int k = 0; k < 18; k++) {
            values[k] = k / 6 * 100 + k / 3 % 2 * 10 + k % 3 + 0.5f;
        }
        return BsrMatrix.of(BsrStructure.of(6, 9, 2, 3, CROW, COL), values);
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "array.npz",
                "matrix.npz",
                "stored.npz",
                "unsorted.npz",
                "fortran_float64_int64.npz",
                "float16.npz",
                "big_endian.npz"
            })
    void readsWhatSciPyWrote(String name) throws IOException {
        assertEquals(expected(), BsrFiles.readNpz(file(fixture(name))));
    }

    @Test
    void readsAnEmptyMatrix() throws IOException {
        BsrMatrix m = BsrFiles.readNpz(file(fixture("empty.npz")));
        assertEquals(BsrStructure.of(6, 9, 2, 3, new int[4], new int[0]), m.getStructure());
    }

    private void rejects(String problem, byte[] content) throws IOException {
        Path file = file(content);
        BsrFormatException e = assertThrows(BsrFormatException.class, () -> BsrFiles.readNpz(file));
        assertEquals(file + ": " + problem, e.getMessage());
    }

    @Test
    void rejectsOtherSciPyFiles() throws IOException {
        rejects(
                "format.npy: the matrix has format 'csr'; convert it with tobsr(blocksize=...) in"
                        + " SciPy",
                fixture("csr.npz"));
        rejects(
                "data.npy: an array of type '<i4' and shape [3, 2, 3]; it must be float32, float64"
                        + " or float16",
                fixture("int.npz"));
    }

    @ParameterizedTest
    @ValueSource(strings = {"array.npz", "stored.npz"})
    void rejectsEveryTruncation(String name) throws IOException {
        byte[] whole = fixture(name);
        for (int length = 0; length < whole.length; length += 5) {
            Path file = file(Arrays.copyOf(whole, length));
            BsrFormatException e =
                    assertThrows(
                            BsrFormatException.class,
                            () -> BsrFiles.readNpz(file),
                            "cut to " + length + " bytes");
            assertTrue(e.getMessage().startsWith(file + ": "), e.getMessage());
        }
    }

    /** A change goes unnoticed only where it does not touch the matrix, such as in a time stamp. */
    @ParameterizedTest
    @ValueSource(strings = {"array.npz", "stored.npz"})
    void neverReadsAnotherMatrixFromChangedBytes(String name) throws IOException {
        byte[] whole = fixture(name);
        int[] masks = {0x01, 0x80, 0xFF};
        int rejected = 0;
        for (int at = 0; at < whole.length; at++) {
            byte[] changed = whole.clone();
            changed[at] ^= (byte) masks[at % masks.length];
            try {
                assertEquals(expected(), BsrFiles.readNpz(file(changed)), "byte " + at);
            } catch (BsrFormatException e) {
                rejected++;
            }
        }
        assertTrue(rejected > whole.length / 3, "only " + rejected + " changes were noticed");
    }

    // ------------------------------------------------------------------ hand-made files

    private static byte[] array(String header, byte[] data) {
        return ByteBuffer.allocate(10 + header.length() + data.length)
                .order(ByteOrder.LITTLE_ENDIAN)
                .put(new byte[] {(byte) 0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0})
                .putShort((short) header.length())
                .put(header.getBytes(StandardCharsets.US_ASCII))
                .put(data)
                .array();
    }

    private static byte[] array(String descr, String shape, byte[] data) {
        return array(
                "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }\n",
                data);
    }

    private static byte[] ints(int... elements) {
        ByteBuffer bytes = ByteBuffer.allocate(4 * elements.length).order(ByteOrder.LITTLE_ENDIAN);
        bytes.asIntBuffer().put(elements);
        return array("<i4", "(" + elements.length + ",)", bytes.array());
    }

    private static byte[] longs(long... elements) {
        ByteBuffer bytes = ByteBuffer.allocate(8 * elements.length).order(ByteOrder.LITTLE_ENDIAN);
        bytes.asLongBuffer().put(elements);
        return array("<i8", "(" + elements.length + ",)", bytes.array());
    }

    /** A valid file with one member replaced, or left out for null. */
    private static byte[] with(String name, byte[] content) throws IOException {
        Map<String, byte[]> members = new LinkedHashMap<>();
        members.put("indices", ints(COL));
        members.put("indptr", ints(CROW));
        members.put("format", array("|S3", "()", new byte[] {'b', 's', 'r'}));
        members.put("shape", ints(6, 9));
        members.put("data", array("<f4", "(3, 2, 3)", new byte[72]));
        members.put(name, content);
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        try (ZipOutputStream zip = new ZipOutputStream(out)) {
            for (Map.Entry<String, byte[]> member : members.entrySet()) {
                if (member.getValue() != null) {
                    zip.putNextEntry(new ZipEntry(member.getKey() + ".npy"));
                    zip.write(member.getValue());
                }
            }
        }
        return out.toByteArray();
    }

    @Test
    void acceptsOtherSpellings() throws IOException {
        byte[] text = "b\0\0\0s\0\0\0r\0\0\0".getBytes(StandardCharsets.US_ASCII);
        BsrMatrix zeros = BsrFiles.readNpz(file(with("format", array("<U3", "()", text))));
        assertArrayEquals(COL, zeros.getStructure().getColIndices());
        assertEquals(zeros, BsrFiles.readNpz(file(with("shape", longs(6, 9)))));
        assertEquals(zeros, BsrFiles.readNpz(file(with("other", new byte[3]))));
    }

    @Test
    void rejectsMissingMembersAndForeignContent() throws IOException {
        rejects("indptr.npy: missing; a BSR file of SciPy's save_npz has it", with("indptr", null));
        rejects(
                "indices.npy: not a NumPy array of version 1, 2 or 3",
                with("indices", "no array at all".getBytes(StandardCharsets.US_ASCII)));
        rejects(
                "format.npy: an array of type '<i4' and shape [1] is no text",
                with("format", ints(1)));
        rejects(
                "data.npy: no 'descr'\\s*:\\s*'([^']*)' in the header \"{'shape': (3,)}\"",
                with("data", array("{'shape': (3,)}\n", new byte[72])));
    }

    @Test
    void rejectsWrongTypesAndShapes() throws IOException {
        String orFloat = "; it must be float32, float64 or float16";
        rejects(
                "data.npy: an array of type '<i4' and shape [3, 2, 3]" + orFloat,
                with("data", array("<i4", "(3, 2, 3)", new byte[72])));
        rejects(
                "data.npy: an array of type '<c8' and shape [3, 2, 3]; indices must be int32 or"
                        + " int64, data float32, float64 or float16",
                with("data", array("<c8", "(3, 2, 3)", new byte[144])));
        rejects(
                "data.npy: an array of type '<f4' and shape [3, 6]; it must be [nnzb, blockRows,"
                        + " blockCols]",
                with("data", array("<f4", "(3, 6)", new byte[72])));
        rejects(
                "indices.npy: an array of type '<f4' and shape [3]; it must be int32 or int64",
                with("indices", array("<f4", "(3,)", new byte[12])));
        rejects(
                "shape.npy: an array of type '<i4' and shape [3]; it must have one dimension of 2",
                with("shape", ints(6, 9, 1)));
    }

    @Test
    void takesNoMemoryForFalseClaims() throws IOException {
        rejects(
                "data.npy: an array of type '<f4' and shape [500000000, 2, 2] needs 8000000081"
                        + " bytes; the member has 81, 71 compressed",
                with("data", array("<f4", "(500000000, 2, 2)", new byte[0])));
        rejects(
                "data.npy: an array of type '<f4' and shape [2000000000, 2000000000, 2000000000]"
                        + " has more than 2147483639 elements",
                with("data", array("<f4", "(2000000000, 2000000000, 2000000000)", new byte[0])));
        rejects(
                "data.npy: the shape (99999999999, 1, 1) has an extent that is no int",
                with("data", array("<f4", "(99999999999, 1, 1)", new byte[0])));
        byte[] header = array("<f4", "(3, 2, 3)", new byte[72]);
        header[6] = 2;
        rejects(
                "data.npy: the header claims 662372415 bytes; the limit is 10000",
                with("data", header));
    }

    @Test
    void rejectsInvalidMatrices() throws IOException {
        String all = "shape, indptr (crowIndices), indices (colIndices), data (values): ";
        rejects(
                all + "colIndices[1] is 3; it must be at least 0 and less than 3",
                with("indices", ints(0, 3, 1)));
        rejects(
                all + "colIndices[0] is -1; it must be at least 0 and less than 3",
                with("indices", longs(-1, 0, 1)));
        rejects(
                "indices.npy: element 1 is 4294967296, which does not fit an int",
                with("indices", longs(0, 1L << 32, 1)));
        rejects(
                all + "crowIndices[2] is 1, less than 2 before it; it must never decrease",
                with("indptr", ints(0, 2, 1, 3)));
        rejects(all + "crowIndices has length 3; 3 rows need 4", with("indptr", ints(0, 2, 3)));
        rejects(
                all
                        + "cols 8 is not a multiple of blockCols 3; pad the matrix or choose a block"
                        + " shape that divides it",
                with("shape", ints(6, 8)));
        rejects(
                all + "data holds 2 blocks, indices 3",
                with("data", array("<f4", "(2, 2, 3)", new byte[48])));
        rejects(
                all + "blockRows is 0; use 1 or more",
                with("data", array("<f4", "(3, 0, 3)", new byte[0])));
    }
}
