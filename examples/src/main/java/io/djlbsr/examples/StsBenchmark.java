/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.apache.commons.csv.CSVFormat;
import org.apache.commons.csv.CSVParser;
import org.apache.commons.csv.CSVRecord;

/**
 * Sentence pairs with the similarity that people gave them, from a CSV file without a header:
 * sentence, sentence, score.
 *
 * @param sentences both sentences of the first pair, of the second, and so on
 * @param scores the score of each pair
 * @see <a href="https://github.com/PhilipMay/stsb-multi-mt">Such files for the STS benchmark</a>
 */
record StsBenchmark(List<String> sentences, List<Double> scores) {

    static StsBenchmark read(Path file) throws IOException {
        List<String> sentences = new ArrayList<>();
        List<Double> scores = new ArrayList<>();
        try (CSVParser parser = CSVParser.parse(file, StandardCharsets.UTF_8, CSVFormat.DEFAULT)) {
            for (CSVRecord row : parser) {
                if (row.size() != 3) {
                    throw new IOException(
                            "%s, record %d: %d fields; expected sentence, sentence, score"
                                    .formatted(file, row.getRecordNumber(), row.size()));
                }
                sentences.add(row.get(0));
                sentences.add(row.get(1));
                scores.add(parseScore(file, row));
            }
        }
        if (scores.size() < 2) {
            throw new IOException(file + " has " + scores.size() + " pairs; at least 2 are needed");
        }
        return new StsBenchmark(List.copyOf(sentences), List.copyOf(scores));
    }

    private static double parseScore(Path file, CSVRecord row) throws IOException {
        try {
            return Double.parseDouble(row.get(2));
        } catch (NumberFormatException e) {
            throw new IOException(
                    "%s, record %d: the score is '%s'; expected a number"
                            .formatted(file, row.getRecordNumber(), row.get(2)),
                    e);
        }
    }
}
