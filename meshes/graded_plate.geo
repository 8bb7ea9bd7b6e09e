// Cantilever plate [mm], 100 x 40, of five strips whose reinforcement decreases from the clamp (left) to the load (right).
// gmsh graded_plate.geo -2 -format msh41 -o graded_plate.msh
n = 8;       // cells over the height
m = 4;       // cells along a strip
For i In {0:5}
  Point(2 * i + 1) = {20 * i, 0, 0};
  Point(2 * i + 2) = {20 * i, 40, 0};
  Line(100 + i) = {2 * i + 1, 2 * i + 2};
  Transfinite Curve {100 + i} = n + 1;
EndFor
For i In {1:5}
  Line(200 + i) = {2 * i - 1, 2 * i + 1};
  Line(300 + i) = {2 * i, 2 * i + 2};
  Transfinite Curve {200 + i, 300 + i} = m + 1;
  Curve Loop(i) = {200 + i, 100 + i, -(300 + i), -(100 + i - 1)};
  Plane Surface(i) = {i};
  Transfinite Surface {i};
  Recombine Surface {i};
EndFor
Physical Surface("strip1") = {1};
Physical Surface("strip2") = {2};
Physical Surface("strip3") = {3};
Physical Surface("strip4") = {4};
Physical Surface("strip5") = {5};
Physical Curve("left") = {100};
Physical Curve("right") = {105};
