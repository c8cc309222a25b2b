/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.engine;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.Parameter;
import ai.djl.nn.SequentialBlock;
import ai.djl.nn.core.Linear;
import ai.djl.training.ParameterStore;
import io.djlbsr.BsrMatrix;
import io.djlbsr.jni.global.DjlBsr;
import io.djlbsr.nn.BsrActivation;
import io.djlbsr.nn.BsrConverter;
import io.djlbsr.nn.BsrExecution;
import io.djlbsr.nn.BsrLinear;
import io.djlbsr.nn.ConversionPolicy;
import io.djlbsr.nn.ConversionReport;
import io.djlbsr.operator.CostEstimate;
import java.util.Arrays;
import java.util.Optional;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** Layers choose by the native model, with profiles that make either side the faster one. */
class ExecutionTest {

    private static final int KINDS = 7;

    private final NDManager manager = NDManager.newBaseManager("PyTorch");
    private final Random random = new Random(11);

    @BeforeEach
    void measureFirst() {
        assertEquals(Optional.empty(), BsrNative.unavailable());
        CpuProfiles.ensure(DataType.FLOAT32);
        CpuProfiles.ensure(DataType.FLOAT16);
    }

    @AfterEach
    void close() {
        setProfile(null);
        manager.close();
    }

    private static void setProfile(Boolean denseFaster) {
        double[] seconds = null;
        if (denseFaster != null) {
            seconds = new double[DjlBsr.DJLBSR_PROFILE_POINTS];
            Arrays.fill(seconds, denseFaster ? 1 : 1e-3);
            Arrays.fill(seconds, 0, seconds.length / KINDS, denseFaster ? 1e-3 : 1);
        }
        for (int dtype : new int[] {DjlBsr.DJLBSR_FLOAT32, DjlBsr.DJLBSR_FLOAT16}) {
            BsrNative.checkCall(DjlBsr.djlbsr_set_profile(dtype, seconds));
        }
    }

    private BsrLinear layer(DataType type, BsrActivation activation) {
        BsrMatrix matrix = Pattern.RANDOM.matrix(4, 6, new int[] {16, 8}, random);
        BsrLinear layer =
                BsrLinear.builder()
                        .setMatrix(matrix)
                        .optBias(type == DataType.FLOAT32)
                        .optActivation(activation)
                        .build();
        layer.initialize(manager, type, new Shape(1, 48));
        return layer;
    }

    private void check(BsrLinear layer, NDArray x) {
        NDArray y =
                layer.forward(new ParameterStore(manager, false), new NDList(x), false)
                        .singletonOrThrow();
        Parameter parameter = layer.getDirectParameters().get("bias");
        NDArray bias = parameter == null ? null : parameter.getArray();
        Oracle.check(layer.toString(), y, layer.getMatrix(), x, bias, layer.getActivation());
    }

    @Test
    void bothDirections() {
        for (DataType type : new DataType[] {DataType.FLOAT32, DataType.FLOAT16}) {
            for (BsrActivation activation : BsrActivation.values()) {
                if (type == DataType.FLOAT16 && activation.code() > BsrActivation.RELU.code()) {
                    continue; // the dense sum is rounded before, which the oracle does not allow
                }
                NDArray x = Oracle.random(manager, random, type, 3, 5, 48);
                setProfile(false);
                BsrLinear sparse = layer(type, activation);
                check(sparse, x);
                long packed = sparse.getPackedBytes();
                sparse.setExecution(BsrExecution.BSR);
                check(sparse, x);
                assertEquals(packed, sparse.getPackedBytes(), "AUTO kept a dense weight");
                setProfile(true);
                BsrLinear dense = layer(type, activation);
                dense.setExecution(BsrExecution.BSR);
                check(dense, x);
                packed = dense.getPackedBytes();
                dense.setExecution(BsrExecution.AUTO);
                check(dense, x);
                assertEquals(
                        64L * 48 * type.getNumOfBytes(),
                        dense.getPackedBytes() - packed,
                        "bytes of the densified weight");
                CostEstimate estimate = dense.estimate(15).orElseThrow();
                assertTrue(estimate.denseFaster() && estimate.speedUp() < 1, estimate::toString);
            }
        }
    }

    @Test
    void estimatesNeedArraysAndTokens() {
        BsrLinear layer = layer(DataType.FLOAT32, BsrActivation.NONE);
        assertEquals(0, layer.estimate(0).orElseThrow().bsrSeconds());
        assertThrows(IllegalArgumentException.class, () -> layer.estimate(-1));
        BsrLinear empty = BsrLinear.builder().setBlockShape(2, 2).setUnits(4).build();
        assertThrows(IllegalStateException.class, () -> empty.estimate(1));
    }

    @Test
    void theReportPredictsAndThePolicyLeaves() {
        for (boolean denseFaster : new boolean[] {false, true}) {
            setProfile(denseFaster);
            for (boolean withPolicy : new boolean[] {false, true}) {
                Linear linear = Linear.builder().setUnits(32).build();
                SequentialBlock block = new SequentialBlock().add(linear);
                block.initialize(manager, DataType.FLOAT32, new Shape(1, 64));
                BsrConverter.Builder builder =
                        BsrConverter.builder().addBlockShape(16, 16).optTokens(1, 128);
                builder.optPolicy(
                        withPolicy ? ConversionPolicy.whereFaster() : ConversionPolicy.all());
                ConversionReport report = builder.build().convert(block);
                ConversionReport.Entry entry = report.getEntries().get(0);
                assertEquals(!(withPolicy && denseFaster), entry.swapped(), report::toString);
                if (entry.swapped()) {
                    assertEquals(2, entry.estimates().size());
                    assertEquals(denseFaster, entry.estimates().get(128L).denseFaster());
                    String cell = denseFaster ? "dense 0.00x" : "BSR 1000.00x";
                    assertTrue(report.toString().contains(cell), report::toString);
                    assertTrue(report.toString().contains("T=128"), report::toString);
                } else {
                    assertTrue(entry.reason().contains("predicted to be faster"), entry::reason);
                    assertTrue(entry.estimates().isEmpty());
                }
            }
        }
        assertThrows(IllegalArgumentException.class, () -> ConversionPolicy.whereFaster(0));
        assertThrows(IllegalArgumentException.class, () -> BsrConverter.builder().optTokens(-1));
    }

    @Test
    void theReportOfTheEnvironmentNamesTheProfiles() {
        String report = BsrDebug.report();
        assertTrue(report.contains("cpu profiles: {"), report);
    }
}
