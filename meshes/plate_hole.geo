// Quarter of a square plate with a circular hole [mm]: quarter edge 100, radius 20, cells graded to the hole.
// gmsh plate_hole.geo -2 -format msh41 -o plate_hole.msh
a = 100;
r = 20;
n = 6;      // cells along each eighth of the hole
m = 10;     // cells from the hole to the edge
c = r * Cos(Pi / 4);
Point(1) = {0, 0, 0};
Point(2) = {r, 0, 0};
Point(3) = {a, 0, 0};
Point(4) = {a, a, 0};
Point(5) = {0, a, 0};
Point(6) = {0, r, 0};
Point(7) = {c, c, 0};
Line(1) = {2, 3};
Line(2) = {3, 4};
Line(3) = {4, 5};
Line(4) = {6, 5};
Circle(5) = {6, 1, 7};
Circle(6) = {7, 1, 2};
Line(7) = {7, 4};
Curve Loop(1) = {1, 2, -7, 6};
Plane Surface(1) = {1};
Curve Loop(2) = {7, 3, -4, 5};
Plane Surface(2) = {2};
Transfinite Curve {2, 3, 5, 6} = n + 1;
Transfinite Curve {1, 4, 7} = m + 1 Using Progression 1.2;
Transfinite Surface {1} = {2, 3, 4, 7};
Transfinite Surface {2} = {7, 4, 5, 6};
Recombine Surface {1, 2};
Physical Surface("plate") = {1, 2};
Physical Curve("bottom") = {1};
Physical Curve("right") = {2};
Physical Curve("top") = {3};
Physical Curve("left") = {4};
Physical Curve("hole") = {5, 6};
