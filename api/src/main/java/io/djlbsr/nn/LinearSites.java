/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import ai.djl.nn.Block;
import ai.djl.nn.LambdaBlock;
import ai.djl.nn.SymbolBlock;
import ai.djl.nn.core.Linear;
import ai.djl.util.Pair;
import ai.djl.util.PairList;
import java.lang.reflect.Field;
import java.lang.reflect.Modifier;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Finds the places that hold the Linears of a block tree: children, fields, and lists, maps and
 * arrays in fields.
 *
 * <p>DJL's blocks keep a layer both among their children, where its parameters are listed, and in a
 * private field, which {@code forward} uses. A swap must reach all of them or none.
 */
final class LinearSites {

    private final IdentityHashMap<Linear, Site> sites = new IdentityHashMap<>();
    private final List<Site> order = new ArrayList<>();
    private final Set<Object> visited = Collections.newSetFromMap(new IdentityHashMap<>());
    private final List<String> opaqueBlocks = new ArrayList<>();

    private LinearSites() {}

    static LinearSites of(Block root) {
        LinearSites found = new LinearSites();
        found.block(root, "");
        return found;
    }

    List<Site> getSites() {
        return order;
    }

    List<String> getOpaqueBlocks() {
        return opaqueBlocks;
    }

    /** Returns all blocks that were found, at any depth. */
    Set<Block> getBlocks() {
        Set<Block> blocks = Collections.newSetFromMap(new IdentityHashMap<>());
        blocks.addAll(sites.keySet());
        for (Object object : visited) {
            if (object instanceof Block block) {
                blocks.add(block);
            }
        }
        return blocks;
    }

    /** A place that holds a block. */
    @FunctionalInterface
    interface Slot {
        void set(Object block) throws ReflectiveOperationException;
    }

    /** A Linear and all places that hold it. */
    static final class Site {
        final Linear linear;
        final String name;
        final List<Slot> slots = new ArrayList<>();
        String obstacle;

        Site(Linear linear, String name) {
            this.linear = linear;
            this.name = name;
        }

        /** Puts a layer in all places, or in none if one fails. */
        void replace(Linear layer) throws ReflectiveOperationException {
            try {
                for (Slot slot : slots) {
                    slot.set(layer);
                }
            } catch (ReflectiveOperationException | RuntimeException e) {
                for (Slot slot : slots) {
                    slot.set(linear);
                }
                throw e;
            }
        }
    }

    private void block(Block block, String path) {
        if (block instanceof Linear linear) {
            site(linear, path);
            return;
        }
        if (!visited.add(block)) {
            return;
        }
        if (block instanceof LambdaBlock) {
            opaqueBlocks.add(path + " (LambdaBlock: a function has no layers that can be found)");
            return;
        }
        if (block instanceof SymbolBlock) {
            opaqueBlocks.add(
                    path
                            + " ("
                            + block.getClass().getSimpleName()
                            + ": a traced graph has no DJL layers; convert the TorchScript model"
                            + " instead)");
            return;
        }
        // The children first: they give the names that parameters have.
        for (Pair<String, Block> child : block.getChildren()) {
            block(child.getValue(), join(path, child.getKey()));
        }
        for (Class<?> c = block.getClass(); c != null && c != Object.class; c = c.getSuperclass()) {
            for (Field field : c.getDeclaredFields()) {
                if (!Modifier.isStatic(field.getModifiers()) && mayHoldBlocks(field.getType())) {
                    field(block, field, path);
                }
            }
        }
    }

    private Site site(Linear linear, String path) {
        Site site = sites.get(linear);
        if (site == null) {
            site = new Site(linear, path);
            sites.put(linear, site);
            order.add(site);
        }
        return site;
    }

    private static String join(String path, String name) {
        return path.isEmpty() ? name : path + "_" + name;
    }

    private static boolean mayHoldBlocks(Class<?> type) {
        return Block.class.isAssignableFrom(type)
                || type.isAssignableFrom(BsrLinear.class)
                || Collection.class.isAssignableFrom(type)
                || Iterable.class == type
                || Map.class.isAssignableFrom(type)
                || PairList.class.isAssignableFrom(type)
                || (type.isArray() && !type.getComponentType().isPrimitive());
    }

    private void field(Block block, Field field, String path) {
        Object value;
        try {
            field.setAccessible(true);
            value = field.get(block);
        } catch (ReflectiveOperationException | RuntimeException e) {
            // Whatever the field holds, it may be one of the children.
            for (Block child : block.getChildren().values()) {
                if (child instanceof Linear linear) {
                    site(linear, path).obstacle = "the field " + field + " cannot be read: " + e;
                }
            }
            return;
        }
        value(value, join(path, field.getName()), v -> field.set(block, v), "field " + field);
    }

    private void value(Object value, String path, Slot slot, String place) {
        if (value instanceof Linear linear) {
            Site site = site(linear, path);
            try {
                // Setting what is there already tells whether it can be set at all.
                slot.set(linear);
                site.slots.add(slot);
            } catch (ReflectiveOperationException | RuntimeException e) {
                site.obstacle = "the " + place + " cannot be set: " + e;
            }
        } else if (value instanceof Block block) {
            block(block, path);
        } else if (value instanceof PairList<?, ?> pairs) {
            value(pairs.values(), path, slot, place);
        } else if (value instanceof List<?> list) {
            list(list, path, place);
        } else if (value instanceof Map<?, ?> map) {
            map(map, path, place);
        } else if (value instanceof Object[] array) {
            for (int i = 0; i < array.length; i++) {
                int index = i;
                value(array[i], join(path, "" + i), v -> array[index] = v, "array in " + place);
            }
        } else if (value instanceof Collection<?> collection && visited.add(collection)) {
            for (Object element : collection) {
                value(
                        element,
                        path,
                        v -> {
                            throw new UnsupportedOperationException(
                                    "elements of a " + value.getClass() + " cannot be replaced");
                        },
                        "collection in " + place);
            }
        }
    }

    @SuppressWarnings("unchecked")
    private void list(List<?> list, String path, String place) {
        if (!visited.add(list)) {
            return;
        }
        for (int i = 0; i < list.size(); i++) {
            int index = i;
            value(
                    list.get(i),
                    join(path, "" + i),
                    v -> ((List<Object>) list).set(index, v),
                    "list in " + place);
        }
    }

    @SuppressWarnings("unchecked")
    private void map(Map<?, ?> map, String path, String place) {
        if (!visited.add(map)) {
            return;
        }
        for (Map.Entry<?, ?> entry : new LinkedHashMap<>(map).entrySet()) {
            Object key = entry.getKey();
            value(
                    entry.getValue(),
                    join(path, String.valueOf(key)),
                    v -> ((Map<Object, Object>) map).put(key, v),
                    "map in " + place);
        }
    }
}
