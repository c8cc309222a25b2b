/** A pretrained transformer read into DJL blocks, pruned, and run with block-sparse layers. */
package io.djlbsr.examples;
