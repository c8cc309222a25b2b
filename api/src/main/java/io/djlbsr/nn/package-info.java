/** Block-sparse layers for DJL blocks, and the ways from dense to block-sparse ones. */
package io.djlbsr.nn;
