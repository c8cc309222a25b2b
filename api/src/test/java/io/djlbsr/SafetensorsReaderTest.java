/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.util.Float16Utils;
import io.djlbsr.BsrPatterns.Pattern;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Map;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class SafetensorsReaderTest {

    // A 4x6 matrix, blocks 2x3: block-row 0 stores column 1, block-row 1 both.
    private static final String META = "'__metadata__':{'format':'bsr','rows':'4','cols':'6'},";
    private static final String CROW =
            "'crow_indices':{'dtype':'I32','shape':[3],'data_offsets':[0,12]},";
    private static final String COL =
            "'col_indices':{'dtype':'I32','shape':[3],'data_offsets':[12,24]},";
    private static final String VALUES =
            "'values':{'dtype':'F32','shape':[3,2,3],'data_offsets':[24,96]}";

    @TempDir Path folder;

    private static ByteBuffer data(int size) {
        ByteBuffer data = ByteBuffer.allocate(size).order(ByteOrder.LITTLE_ENDIAN);
        return data.putInt(0).putInt(1).putInt(3).putInt(1).putInt(0).putInt(1);
    }

    private static byte[] bytes(String json, ByteBuffer data) {
        byte[] header = json.replace('\'', '"').getBytes(StandardCharsets.UTF_8);
        return ByteBuffer.allocate(8 + header.length + data.capacity())
                .order(ByteOrder.LITTLE_ENDIAN)
                .putLong(header.length)
                .put(header)
                .put(data.clear())
                .array();
    }

    private Path file(byte[] content) throws IOException {
        return Files.write(folder.resolve("m.safetensors"), content);
    }

    private Path file(String json) throws IOException {
        return file(bytes(json, data(96)));
    }

    private void rejects(String problem, byte[] content) throws IOException {
        Path file = file(content);
        BsrFormatException e =
                assertThrows(BsrFormatException.class, () -> BsrFiles.readSafetensors(file, ""));
        assertEquals(file + ": " + problem, e.getMessage());
    }

    private void rejects(String problem, String json) throws IOException {
        rejects(problem, bytes(json, data(96)));
    }

    @Test
    void readsEveryValueType() throws IOException {
        float[] expected = new float[18];
        ByteBuffer f64 = data(24 + 18 * 8);
        ByteBuffer f16 = data(24 + 18 * 2);
        ByteBuffer bf16 = data(24 + 18 * 2);
        for (int k = 0; k < 18; k++) {
            expected[k] = k - 8.5f;
            f64.putDouble(k - 8.5);
            bf16.putShort((short) (Float.floatToIntBits(k - 8.5f) >> 16));
            f16.putShort(Float16Utils.floatToHalf(k - 8.5f));
        }
        Map<String, ByteBuffer> files = Map.of("F64", f64, "F16", f16, "BF16", bf16);
        for (Map.Entry<String, ByteBuffer> entry : files.entrySet()) {
            String values =
                    VALUES.replace("F32", entry.getKey())
                            .replace("96", "" + entry.getValue().capacity());
            Path file = file(bytes("{" + META + CROW + COL + values + "}", entry.getValue()));
            BsrMatrix m = BsrFiles.readSafetensors(file, "");
            assertArrayEquals(expected, m.getValues(), entry.getKey());
            assertEquals(
                    BsrStructure.of(4, 6, 2, 3, new int[] {0, 1, 3}, new int[] {1, 0, 1}),
                    m.getStructure());
        }
    }

    @Test
    void readsEveryFloat16() throws IOException {
        ByteBuffer data = ByteBuffer.allocate(12 + (1 << 17)).order(ByteOrder.LITTLE_ENDIAN);
        data.putInt(0).putInt(1).putInt(0);
        for (int bits = 0; bits < 1 << 16; bits++) {
            data.putShort((short) bits);
        }
        Path file =
                file(
                        bytes(
                                "{'__metadata__':{'rows':'1','cols':'65536'},"
                                        + CROW.replace("[3]", "[2]").replace("[0,12]", "[0,8]")
                                        + COL.replace("[3]", "[1]").replace("[12,24]", "[8,12]")
                                        + "'values':{'dtype':'F16','shape':[1,1,65536],"
                                        + "'data_offsets':[12,131084]}}",
                                data));
        float[] values = BsrFiles.readSafetensors(file, "").getValues();
        for (int bits = 0; bits < 1 << 16; bits++) {
            int exponent = bits >> 10 & 31;
            int mantissa = bits & 1023;
            double magnitude =
                    exponent == 31
                            ? (mantissa == 0 ? Double.POSITIVE_INFINITY : Double.NaN)
                            : exponent == 0
                                    ? Math.scalb(mantissa, -24)
                                    : Math.scalb(1024 + mantissa, exponent - 25);
            float expected = (float) (bits < 1 << 15 ? magnitude : -magnitude);
            assertEquals(expected, values[bits], "float16 bits " + bits);
        }
    }

    @Test
    void leavesOtherTensorsAlone() throws IOException {
        String bias = "'bias':{'dtype':'U8','shape':[],'data_offsets':[0,0]},";
        Path file = file("{" + META + bias + CROW + COL + VALUES + "}   ");
        assertEquals(1, BsrFiles.readSafetensors(file).size());
    }

    @Test
    void leavesCsrMatricesAlone() throws IOException {
        String csr =
                "'c.crow_indices':{'dtype':'I32','shape':[0],'data_offsets':[0,0]},"
                        + "'c.values':{'dtype':'F32','shape':[0],'data_offsets':[0,0]},";
        Path file = file("{" + META + csr + CROW + COL + VALUES + "}   ");
        assertEquals(Set.of(""), BsrFiles.readSafetensors(file).keySet());
    }

    @Test
    void rejectsBrokenHeaders() throws IOException {
        rejects("header: the file has 3 bytes, less than 8", new byte[3]);
        byte[] huge = new byte[20];
        Arrays.fill(huge, 0, 8, (byte) 0x7F);
        rejects(
                "header: it claims 9187201950435737471 bytes; at most 12 are possible: truncated,"
                        + " or no safetensors file",
                huge);
        Arrays.fill(huge, 0, 8, (byte) 0xFF);
        rejects(
                "header: it claims 18446744073709551615 bytes; at most 12 are possible: truncated,"
                        + " or no safetensors file",
                huge);
        rejects("header: it is no JSON object", "[]");
        for (String json : new String[] {"{} {}", "{'values':", "", "{values:{}}", "[[["}) {
            rejects("header: it is no valid JSON; the file is damaged", json);
        }
    }

    @Test
    void rejectsBrokenTensors() throws IOException {
        String malformed = "its dtype, shape or data_offsets is missing or malformed";
        rejects(
                "crow_indices: missing; the file has BSR matrices named []",
                "{" + META + VALUES + "}");
        rejects("values: missing", "{" + META + COL + CROW + "'x':{}}");
        rejects("values: " + malformed, "{" + META + COL + CROW + "'values':{}}");
        rejects("values: " + malformed, "{" + META + COL + CROW + "'values':7}");
        for (String shape : new String[] {"'3'", "[3,2,3.5]", "[3,2,'x']", "[3,2,1e99999]"}) {
            rejects(
                    "values: " + malformed,
                    "{" + META + COL + CROW + VALUES.replace("[3,2,3]", shape) + "}");
        }
        rejects(
                "values: dtype is \"I8\"; use I32 or I64 for indices, F32, F16, BF16 or F64 for"
                        + " values",
                "{" + META + COL + CROW + VALUES.replace("F32", "I8") + "}");
        String must = "; indices must be integers [n], values floats [nnzb, blockRows, blockCols]";
        rejects(
                "values: it has dtype INT32 and shape [3, 2, 3]" + must,
                "{" + META + COL + CROW + VALUES.replace("F32", "I32") + "}");
        rejects(
                "crow_indices: it has dtype FLOAT32 and shape [3]" + must,
                "{" + META + COL + CROW.replace("I32", "F32") + VALUES + "}");
        rejects(
                "values: it has dtype FLOAT32 and shape [18]" + must,
                "{" + META + COL + CROW + VALUES.replace("3,2,3", "18") + "}");
        for (String extent : new String[] {"-3", "2147483648", "9223372036854775807"}) {
            rejects(
                    "values: shape is ["
                            + extent
                            + ", 2, 3]; it must be 0 or more and at most 2147483639 elements",
                    "{" + META + COL + CROW + VALUES.replace("[3,", "[" + extent + ",") + "}");
        }
        rejects(
                "values: data_offsets are [24, 97]; the data has 96 bytes: truncated or damaged",
                "{" + META + COL + CROW + VALUES.replace("96", "97") + "}");
        rejects(
                "values: data_offsets are [-4, 68]; the data has 96 bytes: truncated or damaged",
                "{" + META + COL + CROW + VALUES.replace("24,96", "-4,68") + "}");
        rejects(
                "values: data_offsets [24, 92] span 68 bytes; FLOAT32 of shape [3, 2, 3] needs 72",
                "{" + META + COL + CROW + VALUES.replace("96", "92") + "}");
    }

    @Test
    void rejectsInvalidMatrices() throws IOException {
        String all = "crow_indices, col_indices, values, rows, cols: ";
        rejects(
                "__metadata__.rows: missing; it tells the shape of the matrix",
                "{" + CROW + COL + VALUES + "}");
        rejects(
                "__metadata__.cols: it must be a whole number in quotes",
                "{" + META.replace("'6'", "'six'") + CROW + COL + VALUES + "}");
        rejects(
                all + "crowIndices has length 3; 4 rows need 5",
                "{" + META.replace("'4'", "'8'") + CROW + COL + VALUES + "}");
        rejects(
                all
                        + "cols 7 is not a multiple of blockCols 3; pad the matrix or choose a block"
                        + " shape that divides it",
                "{" + META.replace("'6'", "'7'") + CROW + COL + VALUES + "}");
        rejects(
                all + "values holds 2 blocks, colIndices 3",
                "{"
                        + META
                        + CROW
                        + COL
                        + VALUES.replace("3,2,3", "2,2,3").replace("96", "72")
                        + "}");
        ByteBuffer unsorted = data(96).putInt(16, 1).putInt(20, 0);
        rejects(
                all
                        + "colIndices[2] is 0, not sorted: it follows 1 in block-row 1;"
                        + " BsrMatrix.builder sorts blocks and sums duplicates",
                bytes("{" + META + CROW + COL + VALUES + "}", unsorted));
        ByteBuffer wide = ByteBuffer.allocate(108).order(ByteOrder.LITTLE_ENDIAN);
        wide.putInt(0).putInt(1).putInt(3).putLong(1).putLong(1L << 40).putLong(1);
        rejects(
                "col_indices: element 1 is 1099511627776, which does not fit an int",
                bytes(
                        "{"
                                + META
                                + CROW
                                + COL.replace("I32", "I64").replace("12,24", "12,36")
                                + VALUES.replace("24,96", "36,108")
                                + "}",
                        wide));
    }

    @Test
    void namesTheMatricesOfTheFile() throws IOException {
        BsrMatrix m = BsrPatterns.matrix(Pattern.FULL, 2, 2, 1, 1, 1, 1);
        Path file = folder.resolve("two.safetensors");
        BsrFiles.writeSafetensors(file, Map.of("a", m, "b.c", m));
        BsrFormatException e =
                assertThrows(BsrFormatException.class, () -> BsrFiles.readSafetensors(file, "c"));
        assertEquals(
                file + ": c.crow_indices: missing; the file has BSR matrices named [a, b.c]",
                e.getMessage());
    }

    /** Each truncation is noticed; each changed byte gives a matrix or a clear exception. */
    @Test
    void survivesDamage() throws IOException {
        byte[] whole = bytes("{" + META + CROW + COL + VALUES + "}", data(96));
        for (int at = 0; at < whole.length; at++) {
            Path cut = file(Arrays.copyOf(whole, at));
            assertThrows(
                    BsrFormatException.class,
                    () -> BsrFiles.readSafetensors(cut, ""),
                    "cut to " + at + " bytes");
            for (int mask : new int[] {0x01, 0x10, 0x80, 0xFF}) {
                byte[] changed = whole.clone();
                changed[at] ^= (byte) mask;
                try {
                    BsrFiles.readSafetensors(file(changed), "");
                } catch (BsrFormatException e) {
                    assertTrue(e.getMessage().startsWith(cut + ": "), e.getMessage());
                }
            }
        }
    }
}
