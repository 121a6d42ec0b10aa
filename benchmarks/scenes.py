"""How many procedural pictures a second one core draws, by size.

python benchmarks/scenes.py
"""

import time

from thingstuff.data.scenes import draw_scene

for size in ((64, 64), (128, 192), (512, 768)):
    draw_scene(0, 0, size)
    start, count = time.process_time(), 40
    for index in range(count):
        draw_scene(1, index, size)
    print(f"{size[1]} x {size[0]}: {count / (time.process_time() - start):.0f} pictures a second")
