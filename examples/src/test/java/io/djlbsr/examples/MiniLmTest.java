/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import javax.imageio.ImageIO;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import picocli.CommandLine;

class MiniLmTest {

    private final StringWriter out = new StringWriter();
    private final StringWriter err = new StringWriter();

    private int run(String... args) {
        CommandLine line = MiniLm.commandLine();
        line.setOut(new PrintWriter(out, true)).setErr(new PrintWriter(err, true));
        return line.execute(args);
    }

    @Test
    void helpListsTheOptions() {
        assertEquals(0, run("--help"));
        for (String option :
                new String[] {
                    "--sparsity",
                    "--block",
                    "--layers",
                    "--sentences",
                    "--sts",
                    "--threads",
                    "--out",
                    "--seed"
                }) {
            assertTrue(out.toString().contains(option), option + " in " + out);
        }
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            textBlock =
                    """
                    --sparsity=1          | --sparsity 1.0: use fractions
                    --sparsity=-0.1,0.5   | --sparsity -0.1: use fractions
                    --sparsity=NaN        | --sparsity NaN: use fractions
                    --sparsity=half       | '--sparsity'
                    --block=32            | '32' is no block shape; write ROWSxCOLS
                    --block=0x32          | '0x32': a block has at least 1 element
                    --block=32x36         | --block 32x36: rows and columns must divide 384
                    --layers=(            | --layers: no regular expression
                    --layers=query        | --layers query: matches none of 02layer0_06intermediate
                    --sentences=0         | --sentences 0: use 1 to
                    --sentences=2000000   | --sentences 2000000: use 1 to
                    --threads=0           | --threads 0: use 1 or more
                    --sts=missing.csv     | --sts missing.csv: there is no such file
                    --out=pom.xml         | --out pom.xml: this is a file
                    --colour              | --colour
                    """)
    void refusesBadOptions(String option, String message) {
        assertEquals(2, run(option), err.toString());
        assertTrue(err.toString().contains(message), err.toString());
    }

    @Test
    void reportsABadStsFile(@TempDir Path directory) throws Exception {
        Path file = directory.resolve("sts.csv");
        Files.writeString(file, "a b,\"c, d\",4.5\ne,f,high\n");
        assertEquals(1, run("--sts=" + file, "--out=" + directory));
        assertTrue(err.toString().contains("record 2: the score is 'high'"), err.toString());
    }

    /** The whole path on two of twelve layers and little text. */
    @Test
    void prunesConvertsAndMeasures(@TempDir Path directory) throws Exception {
        Path sts = directory.resolve("sts.csv");
        Files.writeString(
                sts,
                """
                A man plays a flute.,"A flute is played, by a man.",4.8
                A plane is taking off.,A cat sleeps.,0.2
                A dog runs.,An animal is moving.,3.0
                """);
        assertEquals(
                0,
                run(
                        "--layers=layer5",
                        "--sparsity=0.5",
                        "--block=64x32",
                        "--sentences=200",
                        "--sts=" + sts,
                        "--out=" + directory),
                err.toString());

        assertTrue(out.toString().contains("speed-up"), out.toString());
        JsonObject report =
                JsonParser.parseString(Files.readString(directory.resolve("minilm.json")))
                        .getAsJsonObject();
        JsonObject dense = report.getAsJsonArray("qualities").get(0).getAsJsonObject();
        JsonObject sparse = report.getAsJsonArray("qualities").get(1).getAsJsonObject();
        JsonObject magnitude = report.getAsJsonArray("qualities").get(2).getAsJsonObject();
        assertEquals(1, dense.get("glossCosine").getAsDouble(), 1e-6);
        assertEquals(1, dense.get("spearman").getAsDouble(), 1e-6);
        assertEquals(0.5, sparse.get("sparsity").getAsDouble());
        double cosine = sparse.get("glossCosine").getAsDouble();
        assertTrue(cosine > magnitude.get("glossCosine").getAsDouble(), report.toString());
        assertTrue(cosine > 0.85, report.toString());
        assertTrue(sparse.get("ownError").getAsDouble() <= 1e-4, report.toString());
        assertEquals(1672, ImageIO.read(directory.resolve("minilm.png").toFile()).getWidth());
    }
}
