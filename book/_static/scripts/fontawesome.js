/* The theme's script of this name is 1.5 MB of SVG icons; the style sheet's web font shows the same ones. */
