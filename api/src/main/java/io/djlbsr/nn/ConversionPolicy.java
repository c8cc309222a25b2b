/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import ai.djl.nn.core.Linear;
import io.djlbsr.BsrMatrix;
import io.djlbsr.BsrStructure;
import io.djlbsr.operator.CostEstimate;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.regex.Pattern;
import java.util.stream.LongStream;

/** Selects the layers that a {@link BsrConverter} swaps. */
@FunctionalInterface
public interface ConversionPolicy {

    /**
     * The density above which a dense layer is usually faster, from 0 to 1: at half the blocks the
     * irregular access costs about what the skipped work saves.
     */
    double DEFAULT_MAX_DENSITY = 0.6;

    /**
     * Decides on a layer.
     *
     * @param name the layer's name, as it stands before {@code _weight} in the block's parameters
     * @param linear the layer
     * @param candidate the weight that would replace its own
     * @return empty to swap the layer, else the reason to leave it
     */
    Optional<String> reasonToLeave(String name, Linear linear, BsrMatrix candidate);

    /**
     * Swaps every layer.
     *
     * @return the policy
     */
    static ConversionPolicy all() {
        return (name, linear, candidate) -> Optional.empty();
    }

    /**
     * Swaps the layers in whose name a regular expression is found.
     *
     * @param regex the regular expression
     * @return the policy
     * @throws java.util.regex.PatternSyntaxException if the expression is malformed
     */
    static ConversionPolicy nameMatches(String regex) {
        Pattern pattern = Pattern.compile(regex);
        return (name, linear, candidate) ->
                pattern.matcher(name).find()
                        ? Optional.empty()
                        : Optional.of("the name does not match " + regex);
    }

    /**
     * Swaps the layers whose candidate has a density up to a bound.
     *
     * @param maxDensity the bound, 0 to 1; {@link #DEFAULT_MAX_DENSITY} is a good start
     * @return the policy
     * @throws IllegalArgumentException if the bound is out of range
     */
    static ConversionPolicy maxDensity(double maxDensity) {
        if (!(maxDensity >= 0 && maxDensity <= 1)) {
            throw new IllegalArgumentException(
                    "maxDensity is " + maxDensity + "; use a number from 0 to 1");
        }
        return (name, linear, candidate) ->
                candidate.getDensity() <= maxDensity
                        ? Optional.empty()
                        : Optional.of(
                                String.format(
                                        Locale.ROOT,
                                        "density %.3f is above %.3f; prune the weight",
                                        candidate.getDensity(),
                                        maxDensity));
    }

    /**
     * Swaps the layers whose candidate has a block shape, of those that the converter tries.
     *
     * @param blockRows the rows of a block
     * @param blockCols the columns of a block
     * @return the policy
     */
    static ConversionPolicy blockShape(int blockRows, int blockCols) {
        return (name, linear, candidate) -> {
            BsrStructure structure = candidate.getStructure();
            return structure.getBlockRows() == blockRows && structure.getBlockCols() == blockCols
                    ? Optional.empty()
                    : Optional.of("the block shape is not " + blockRows + "x" + blockCols);
        };
    }

    /**
     * Swaps the layers for which {@link BsrExecution#AUTO} would run block-sparse for one of some
     * numbers of tokens at least, as predicted for the device and data type of the layer's arrays.
     * Layers whose operator has no model of its times are swapped.
     *
     * @param tokens the numbers of tokens that the model will see; the powers of four from 1 to
     *     65536 if there are none
     * @return the policy
     * @throws IllegalArgumentException if a number is less than 1
     */
    static ConversionPolicy whereFaster(long... tokens) {
        List<Long> counts =
                tokens.length == 0
                        ? LongStream.iterate(1, t -> t <= BsrExecution.MAX_TOKENS, t -> 4 * t)
                                .boxed()
                                .toList()
                        : LongStream.of(tokens).boxed().toList();
        for (long count : counts) {
            if (count < 1) {
                throw new IllegalArgumentException("tokens is " + count + "; use 1 or more");
            }
        }
        return (name, linear, candidate) -> {
            Map<Long, CostEstimate> estimates = estimates(linear, candidate, counts);
            CostEstimate best =
                    estimates.values().stream()
                            .max(Comparator.comparingDouble(CostEstimate::speedUp))
                            .orElse(null);
            if (best == null || estimates.values().stream().anyMatch(e -> !e.denseFaster())) {
                return Optional.empty();
            }
            return Optional.of(
                    String.format(
                            Locale.ROOT,
                            "dense is predicted to be faster for %s tokens, %.2f times at least;"
                                    + " prune more of the weight or use another block shape",
                            counts,
                            1 / best.speedUp()));
        };
    }

    private static Map<Long, CostEstimate> estimates(
            Linear linear, BsrMatrix candidate, List<Long> counts) {
        BsrLinear layer = BsrLinear.fromLinear(linear, candidate);
        try {
            return layer.estimates(counts);
        } finally {
            layer.clear();
        }
    }

    /**
     * Swaps the layers that this and another policy swap.
     *
     * @param other the other policy
     * @return the policy
     */
    default ConversionPolicy and(ConversionPolicy other) {
        return (name, linear, candidate) -> {
            Optional<String> reason = reasonToLeave(name, linear, candidate);
            return reason.isPresent() ? reason : other.reasonToLeave(name, linear, candidate);
        };
    }

    /**
     * Swaps the layers that this or another policy swaps.
     *
     * @param other the other policy
     * @return the policy
     */
    default ConversionPolicy or(ConversionPolicy other) {
        return (name, linear, candidate) -> {
            Optional<String> reason = reasonToLeave(name, linear, candidate);
            return reason.flatMap(
                    first ->
                            other.reasonToLeave(name, linear, candidate)
                                    .map(second -> first + ", and " + second));
        };
    }
}
