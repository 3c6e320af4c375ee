#pragma once
#define LICORNE_VERSION "0.1.0"
