/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import picocli.CommandLine;

class MiniLmLatencyTest {

    private final StringWriter out = new StringWriter();
    private final StringWriter err = new StringWriter();

    private int run(String... args) {
        CommandLine line = MiniLmLatency.commandLine();
        line.setOut(new PrintWriter(out, true)).setErr(new PrintWriter(err, true));
        return line.execute(args);
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            textBlock =
                    """
                    --sparsity=1      | --sparsity 1.0: use a fraction
                    --block=32x36     | --block 32x36: rows and columns must divide 384
                    --batch=1,0       | --batch 0: use 1 or more
                    --threads=0       | --threads 0: use 1 or more
                    """)
    void refusesBadOptions(String option, String message) {
        assertEquals(2, run(option), err.toString());
        assertTrue(err.toString().contains(message), err.toString());
    }

    @Test
    void measuresAndWrites(@TempDir Path directory) throws Exception {
        Path file = directory.resolve("new/latency.json");
        assertEquals(0, run("--batch=2", "--block=64x32", "--out=" + file), err.toString());
        assertTrue(out.toString().contains("64x32"), out.toString());
        JsonObject all = JsonParser.parseString(Files.readString(file)).getAsJsonObject();
        assertEquals(0.8, all.get("sparsity").getAsDouble());
        JsonArray results = all.getAsJsonArray("results");
        assertEquals(1, results.size());
        JsonObject result = results.get(0).getAsJsonObject();
        assertEquals(2, result.get("batch").getAsInt());
        assertTrue(result.get("tokens").getAsInt() >= 4, all.toString());
        for (String time :
                new String[] {"denseMillis", "bsrMillis", "denseLayersMillis", "bsrLayersMillis"}) {
            assertTrue(result.get(time).getAsDouble() > 0, all.toString());
        }
    }
}
