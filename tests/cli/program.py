"""Running flash-attn in the tests: the program's path comes from the command line, every test works in a fresh folder."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

PROGRAM = None


class ProgramTest(unittest.TestCase):
    def setUp(self):
        self._folder = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self._folder.name)
        self.addCleanup(self._folder.cleanup)

    def path(self, name):
        return self.folder / name

    def call(self, *arguments):
        return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, cwd=self.folder, timeout=120, check=False)

    def succeed(self, *arguments):
        result = self.call(*arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def refuse(self, code, pattern, *arguments):
        """The program ends with `code` and one line on stderr that matches; nothing else appears in the folder."""
        before = sorted(self.folder.iterdir())
        result = self.call(*arguments)
        self.assertEqual(result.returncode, code, f"{arguments}: {result.stderr}")
        self.assertRegex(result.stderr, pattern)
        self.assertTrue(result.stderr.startswith("flash-attn: "), result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertEqual(sorted(self.folder.iterdir()), before, "a refused call left files behind")


def main():
    global PROGRAM
    if len(sys.argv) < 2:
        sys.exit("usage: TEST.py path/to/flash-attn [unittest argument]...")
    # The tests import this module by its name, which is not the name it runs under.
    sys.modules["program"].PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main(module="__main__")
