"""Music made on the spot from a seed: composer, synthesiser, effects and the folder that they fill."""
