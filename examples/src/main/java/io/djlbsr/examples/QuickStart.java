/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.Activation;
import ai.djl.nn.SequentialBlock;
import ai.djl.nn.core.Linear;
import ai.djl.training.ParameterStore;
import io.djlbsr.nn.BlockPruner;
import io.djlbsr.nn.BsrConverter;

/** Prunes the linear layers of a DJL block, swaps them for block-sparse ones, and runs it. */
public final class QuickStart {

    private QuickStart() {}

    /**
     * Runs the example.
     *
     * @param args none
     */
    @SuppressWarnings("SystemOut")
    public static void main(String[] args) {
        try (NDManager manager = NDManager.newBaseManager("PyTorch")) {
            SequentialBlock model =
                    new SequentialBlock()
                            .add(Linear.builder().setUnits(4096).build())
                            .add(Activation::gelu)
                            .add(Linear.builder().setUnits(1024).build());
            model.initialize(manager, DataType.FLOAT32, new Shape(512, 1024));

            BlockPruner pruner =
                    BlockPruner.builder().setBlockShape(32, 32).setDensity(0.125).build();
            BsrConverter converter = BsrConverter.builder().optPruner(pruner).build();
            System.out.println(converter.convert(model));

            NDArray x = manager.randomNormal(new Shape(512, 1024));
            NDList y = model.forward(new ParameterStore(manager, false), new NDList(x), false);
            System.out.println(y.singletonOrThrow().getShape());
        }
    }
}
