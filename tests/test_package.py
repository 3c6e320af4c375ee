"""What is installed: the package beside its interpreter, and the wheel in an environment of its own."""

import importlib
import pathlib
import re
import subprocess
import sys
import sysconfig
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
VERSION = re.search(r'LICORNE_VERSION "(.+)"', (ROOT / "config/version.h").read_text()).group(1)
C_LIBRARY = {"linux-vdso.so", "libc.so", "libm.so", "libpthread.so", "libdl.so", "librt.so", "ld-linux"}


def output(*command: object, **options: object) -> str:
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def libraries(binary: pathlib.Path) -> set[str]:
    """The names, without versions, of all that the dynamic linker would load for `binary`."""
    lines = output("ldd", binary).splitlines()
    names = (pathlib.Path(line.split()[0]).name for line in lines)
    return {re.match(r"(ld-linux|[^/]*?\.so)", name)[1] for name in names}


@pytest.mark.smoke
def test_extension_has_the_version_of_the_sources():
    assert importlib.import_module("licorne._core").__version__ == VERSION


@pytest.mark.smoke
def test_executable_stands_beside_python():
    executable = pathlib.Path(sys.executable).parent / "licorne"
    assert executable.read_bytes()[:4] == b"\x7fELF"
    assert VERSION in output(executable, "--version")


@pytest.fixture(scope="module")
def wheel() -> pathlib.Path:
    output("make", "wheel", cwd=ROOT)
    return max((ROOT / "dist").glob(f"licorne-{VERSION}-*.whl"), key=lambda path: path.stat().st_mtime)


@pytest.fixture(scope="module")
def empty_venv(tmp_path_factory, wheel) -> pathlib.Path:
    """An environment with the wheel and nothing else, made without any index."""
    venv = tmp_path_factory.mktemp("wheel") / "venv"
    output(sys.executable, "-m", "venv", venv)
    output(venv / "bin/python", "-m", "pip", "install", "--no-index", "--no-deps", wheel)
    return venv


def installed(venv: pathlib.Path, name: str) -> pathlib.Path:
    tag = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return venv / "lib" / tag / "site-packages/licorne" / name


@pytest.mark.timeout(600)
def test_wheel_carries_licences(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"licorne/_licenses/libev.txt", "licorne/_licenses/llhttp.txt"} <= set(names)
    assert ("licorne/_lib/libjemalloc.so.2" in names) == ("licorne/_licenses/jemalloc.txt" in names)
    assert any(re.fullmatch(r"licorne-.*\.dist-info/(licenses/)?LICENSE", name) for name in names)


@pytest.mark.timeout(600)
def test_wheel_needs_the_c_library_alone(empty_venv):
    extension = installed(empty_venv, f"_core{sysconfig.get_config_var('EXT_SUFFIX')}")
    for binary in (empty_venv / "bin/licorne", extension):
        assert libraries(binary) <= C_LIBRARY
        assert "RUNPATH" not in output("readelf", "-d", binary)
        assert "RPATH" not in output("readelf", "-d", binary)


@pytest.mark.timeout(600)
def test_wheel_works_where_it_is_installed(empty_venv):
    assert VERSION in output(empty_venv / "bin/licorne", "--version")
    program = "import licorne._core as core; print(core.__version__)"
    assert output(empty_venv / "bin/python", "-c", program).strip() == VERSION
